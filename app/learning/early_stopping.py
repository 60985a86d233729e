"""Early stopping: training ends when validation has not got better for some epochs.

Knows plain numbers; those who call it see to it that all ranks see the same ones.
"""

from typing import Literal

import keras
import numpy as np

from app.state import Kind, declare


class EarlyStopping:
    """The best validation of a run, and how long ago it was.

    Saved, resumed and compared as state of training. If another kind of score is watched on resume,
    it begins anew.

    `watches`: the lowest "loss", or the highest "accuracy"; `patience`: so many epochs without a
    better one end the run.
    """

    def __init__(self, watches: Literal["loss", "accuracy"], patience: int):
        self.watches, self.patience = watches, patience
        with keras.name_scope("early_stopping"):
            # The best score, its epoch, and the newest epoch that was seen; epochs count from 1.
            self._seen = keras.Variable(
                initializer="zeros", shape=(3,), dtype="float64", trainable=False, name=watches
            )
        declare(self._seen, Kind.REPLICATED, optional=True)

    @property
    def variables(self) -> list[keras.Variable]:
        """All that is state."""
        return [self._seen]

    @property
    def best(self) -> float:
        """The best score; 0 before the first."""
        return float(self._seen.numpy()[0])

    @property
    def best_epoch(self) -> int:
        """When it was; 0 before the first."""
        return int(self._seen.numpy()[1])

    @property
    def epoch(self) -> int:
        """The newest epoch that was seen."""
        return int(self._seen.numpy()[2])

    @property
    def is_over(self) -> bool:
        """Whether to end."""
        return self.epoch - self.best_epoch >= self.patience

    def see(self, epoch: int, score: float) -> None:
        """The validation at the end of an epoch; one that was seen before does not count again. A
        score that is not a number is never the best."""
        if epoch <= self.epoch:
            return
        best, best_epoch = self.best, self.best_epoch
        is_better = score < best if self.watches == "loss" else score > best
        if is_better or (not best_epoch and not np.isnan(score)):
            best, best_epoch = score, epoch
        self._seen.assign(np.array([best, best_epoch, epoch], np.float64))

    def to_json(self) -> dict[str, float | int | bool | str]:
        """For the results of a run."""
        return {
            "watches": self.watches,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "ended_the_run": self.is_over,
        }
