"""Keras callbacks for a plain `fit()` script under Horovod."""

from typing import Any

import keras

from app.distributed.replicas import average_statistics, broadcast_state, sum_metrics
from app.distributed.world import World, current_world


class BroadcastInitialState(keras.callbacks.Callback):
    """Before the first step, give every rank rank 0's variables, the optimizer's included.

    Dropout and augmentation layers then draw differently on each rank, from (seed, rank).
    Raises ValueError if the model has no variables yet: give it an Input layer, or call it on
    one batch before `fit()`.
    """

    def __init__(self, seed: int = 0, world: World | None = None):
        super().__init__()
        self.seed = seed
        self._world = world

    def on_train_begin(self, logs: Any = None) -> None:
        """Build the optimizer, then broadcast."""
        world = self._world or current_world()
        if not self.model.built:
            raise ValueError(
                "the model has no variables to broadcast yet: give it an Input layer, or call it "
                "on one batch before fit()"
            )
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        broadcast_state(world, self.model, self.model.optimizer, self.seed, step=0)


class AverageMetrics(keras.callbacks.Callback):
    """Make the metrics that callbacks and History see those of all ranks' examples together.

    Put it first in the list of callbacks. Sums the metrics' states, so shards of different sizes
    count rightly; see `sum_metrics` for which metrics that is exact.

    At the end of each epoch, before its validation, it also replaces BatchNorm's moving statistics
    by their mean over ranks, each weighed by its examples: ranks would otherwise validate, and
    rank 0 save, a model of their own.
    """

    def __init__(self, world: World | None = None):
        super().__init__()
        self._world = world
        self._train: dict[str, float] = {}
        self._test: dict[str, float] = {}
        self._trains = False

    def on_train_begin(self, logs: Any = None) -> None:
        """An evaluation from here on is a validation."""
        self._trains = True

    def on_train_end(self, logs: Any = None) -> None:
        """An evaluation from here on is a test."""
        self._trains = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Forget the last epoch's results."""
        self._train, self._test = {}, {}

    def on_test_begin(self, logs: Any = None) -> None:
        """Validation resets the metrics: take the training results first."""
        self._take_training()

    def on_test_end(self, logs: Any = None) -> None:
        """The results of `evaluate()`."""
        self._test = self._summed()
        if logs is not None:
            logs.update({name: self._test[name] for name in logs if name in self._test})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """The results of the epoch, and of its validation as `val_*`."""
        self._take_training()
        if logs is not None:
            averaged = self._train | {f"val_{name}": v for name, v in self._test.items()}
            logs.update({name: averaged[name] for name in logs if name in averaged})

    def _take_training(self) -> None:
        """The results of the epoch, once; and its statistics."""
        if self._train:
            return
        if self._trains:
            self._world = self._world or current_world()
            average_statistics(self._world, self.model, _examples(self.model))
        self._train = self._summed()

    def _summed(self) -> dict[str, float]:
        """Results over all ranks, under the names that logs use."""
        self._world = self._world or current_world()
        leaves = []
        for metric in self.model.metrics:
            leaves += list(getattr(metric, "metrics", None) or [metric])
        return sum_metrics(self._world, leaves)


def _examples(model: keras.Model) -> float:
    """How many the epoch's mean loss is of; without such a metric all ranks count alike."""
    counts = [float(m.count) for m in model.metrics if isinstance(m, keras.metrics.Mean)]
    return counts[0] if counts else 1.0
