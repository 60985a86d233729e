"""This rank's copy of the newest commit point, to go back to if an exchange fails in mid-step."""

import dataclasses
from typing import Any

import numpy as np

from app.monitor.progress import Progress
from app.state import Kind, TrainState


@dataclasses.dataclass(frozen=True)
class Memory:
    """A run at a commit point. `values`: of every variable but random generators, by path;
    `pending`: the epoch that ended there, until all has been done that its end asks for."""

    position: dict[str, int]
    values: dict[str, np.ndarray]
    pending: Progress | None

    @classmethod
    def of(cls, state: TrainState, pending: Progress | None) -> "Memory":
        """A copy."""
        entries = [entry for entry in state.entries if entry.kind is not Kind.DERIVED]
        # TensorFlow's `numpy()` copies.
        values = {entry.path: np.asarray(entry.variable.numpy()) for entry in entries}
        return cls(state.position, values, pending)

    def restore(self, state: TrainState) -> None:
        """Bring the state back."""
        state.move_to(self.position)
        for entry in state.entries:
            if entry.kind is not Kind.DERIVED:
                entry.variable.assign(self.values[entry.path])


def scale_owed(state: TrainState, by: float) -> None:
    """Share what compression still owes between another number of ranks: each had its part."""
    for entry in state.entries:
        if entry.kind is Kind.SUMMED:
            value: Any = entry.variable.numpy()
            entry.variable.assign((value.astype(np.float64) * by).astype(value.dtype))
