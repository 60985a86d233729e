"""A copy of a `TrainState` in host memory, which can be written while training goes on.

Knows no worker and no file.
"""

import dataclasses
import json
from typing import Any

import keras
import numpy as np

from app.state import SAVED, TrainState

FORMAT = 3


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A run at a commit point.

    `arrays`: every saved variable, by its path; `about`: the JSON that stands beside them: where
    the run is, the sums behind the metrics of the epoch so far, and what the caller says.
    """

    step: int
    arrays: dict[str, np.ndarray]
    about: bytes

    @property
    def nbytes(self) -> int:
        """Of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())


def take(state: TrainState, about: dict[str, Any]) -> Snapshot:
    """Copy what a checkpoint holds; `about`: plain JSON values, kept beside it."""
    entries = [entry for entry in state.entries if entry.kind in SAVED]
    # TensorFlow's `numpy()` copies: what training does to the variables next is not seen here.
    arrays = {entry.path: np.asarray(entry.variable.numpy()) for entry in entries}
    meta = {
        "format": FORMAT,
        **state.position,
        "metrics": _sums(state.model),
        **about,
        "optional": [entry.path for entry in entries if entry.optional],
    }
    return Snapshot(state.step, arrays, json.dumps(meta, indent=2).encode())


def _sums(model: keras.Model) -> dict[str, list[Any]]:
    """The state of each metric, by its name."""
    return {m.name: [v.numpy().tolist() for v in m.variables] for m in model.metrics}
