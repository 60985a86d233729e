"""The Keras callback that a plain `fit()` script under Horovod needs."""

from typing import Any

import keras

from app.distributed.guard import agree, compare
from app.distributed.horovod_world import current_world
from app.distributed.replicas import broadcast_state, sum_metrics
from app.distributed.world import World


class CommitPoints(keras.callbacks.Callback):
    """Keeps the ranks of a `fit()` in lockstep; put it first in the list of callbacks.

    Before the first step every rank gets rank 0's variables, the optimizer's included. Before each
    validation, and at the end of each epoch and of training, all ranks are brought to one state:
    BatchNorm's moving statistics become their mean over ranks, weighted by examples, and every
    other variable must have the same bits everywhere. So no callback after this one saves a state
    that the ranks do not share. Dropout and augmentation layers draw differently on each rank, from
    (seed, rank, step).

    At the end of epochs and of `evaluate()`, `logs`, and so History, hold the metrics over all
    ranks' examples; see `sum_metrics` for the metrics that this is exact for.

    Args:
        compare_every_steps: how often, in optimizer steps, to compare the variables between commit
            points; each time costs one checksum and one allgather of 8 bytes per variable.
        seed: of the random generators.
        world: the ranks; default: those of the running Horovod.
        on_drift: "stop", or "repair" to give ranks that differ the variables of the majority, with
            a warning (without a majority, as with 2 ranks, training stops).

    Raises ValueError if the model has no variables yet: give it an Input layer, or call it on one
    batch before `fit()`. Raises ValueError on every rank if ranks have different numbers of steps
    per epoch, where Keras knows them. Raises ReplicasDiverged on every rank if the ranks drift
    apart.
    """

    def __init__(
        self,
        compare_every_steps: int = 100,
        seed: int = 0,
        world: World | None = None,
        on_drift: str = "stop",
    ):
        super().__init__()
        if compare_every_steps < 1:
            raise ValueError(f"compare_every_steps={compare_every_steps}: expected at least 1")
        if on_drift not in ("stop", "repair"):
            raise ValueError(f"on_drift={on_drift!r}: expected 'stop' or 'repair'")
        self.compare_every_steps = compare_every_steps
        self.seed = seed
        self.on_drift = on_drift
        self._given = world
        self._passes = 0
        self._trains = False  # inside fit(), where an evaluation is a validation
        self._moved = False  # since the last commit point
        self._train: dict[str, float] = {}
        self._test: dict[str, float] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Compare the numbers of steps; build the optimizer, then broadcast."""
        if not self.model.built:
            raise ValueError(
                "the model has no variables to broadcast yet: give it an Input layer, or call it "
                "on one batch before fit()"
            )
        _check_same_steps(self._world.gather((self.params or {}).get("steps")))
        optimizer = self.model.optimizer
        optimizer.settles = True
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        broadcast_state(self._world, self.model, optimizer, self.seed, self._step)
        self._trains = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Forget the last epoch's results; tell the optimizer where training is."""
        if hasattr(self.model.optimizer, "move_to"):
            self.model.optimizer.move_to(epoch)
        self._train, self._test = {}, {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count passes, and compare after the last one of every K-th step.

        The optimizer's own count would not do: if it differed, some ranks would wait forever.
        """
        self._moved = True
        self._passes += 1
        passes_per_step = getattr(self.model.optimizer, "backward_passes_per_step", 1)
        is_due = self._passes % (self.compare_every_steps * passes_per_step) == 0
        if is_due and getattr(self.model.optimizer, "is_equal_after_steps", True):
            compare(self._world, self.model, self.model.optimizer, self._step, self.on_drift)

    def on_test_begin(self, logs: Any = None) -> None:
        """A commit point before a validation, which resets the metrics: take them first."""
        if self._trains:
            self._commit()

    def on_test_end(self, logs: Any = None) -> None:
        """The results of `evaluate()`."""
        self._test = self._summed()
        if logs is not None:
            logs.update({name: self._test[name] for name in logs if name in self._test})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """A commit point; the results of the epoch, and of its validation as `val_*`."""
        self._commit()
        if logs is not None:
            averaged = self._train | {f"val_{name}": v for name, v in self._test.items()}
            logs.update({name: averaged[name] for name in logs if name in averaged})

    def on_train_end(self, logs: Any = None) -> None:
        """The last commit point."""
        self._commit()
        self._trains = False

    def _commit(self) -> None:
        examples = _examples(self.model) if self._moved else 0.0
        if self._moved:
            self._train = self._summed()
        optimizer = self.model.optimizer
        agree(self._world, self.model, optimizer, examples, self.seed, self._step, self.on_drift)
        self._moved = False

    @property
    def _world(self) -> World:
        self._given = self._given or current_world()
        return self._given

    @property
    def _step(self) -> int:
        return int(self.model.optimizer.iterations)

    def _summed(self) -> dict[str, float]:
        """Results over all ranks, under the names that logs use."""
        leaves = []
        for metric in self.model.metrics:
            leaves += list(getattr(metric, "metrics", None) or [metric])
        return sum_metrics(self._world, leaves)


def _check_same_steps(steps: list[int | None]) -> None:
    """`steps`: an epoch's on each rank, None where Keras will know only after the first epoch.

    Steps of a validation may differ, since they exchange nothing.
    """
    known = sorted({number for number in steps if number is not None})
    if None in steps or len(known) == 1:
        return
    ranks = {number: [r for r, n in enumerate(steps) if n == number] for number in known}
    raise ValueError(
        "ranks have different numbers of steps in an epoch: "
        f"{', '.join(f'{number} on rank(s) {ranks[number]}' for number in known)}. The ranks with "
        "more would wait for ever for the others: give every rank as many batches, or "
        f"steps_per_epoch={known[0]}"
    )


def _examples(model: keras.Model) -> float:
    """How many examples the epoch's mean loss covers; without such a metric, 1 on every rank."""
    counts = [float(m.count) for m in model.metrics if isinstance(m, keras.metrics.Mean)]
    return counts[0] if counts else 1.0
