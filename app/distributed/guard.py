"""The lockstep guard: notices when replicas drift apart, and names where."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from app.distributed.world import World, current_world
from app.state import Kind, fingerprints, state_variables


class ReplicasDiverged(RuntimeError):  # noqa: N818 (an event, and the field's word)
    """Variables that must be equal on all ranks are not."""


def compare(world: World, model: keras.Model, optimizer: Any, step: int) -> None:
    """Compare the bits of every replicated variable over all ranks; a collective.

    Raises ReplicasDiverged, on every rank, that names the first variable and the ranks.
    """
    entries = [e for e in state_variables(model, optimizer) if e.kind is Kind.REPLICATED]
    # Paths may be numbered differently in other processes, so only their number is compared.
    rows = world.gather(fingerprints(entries))
    if len({len(row) for row in rows}) > 1:
        raise ReplicasDiverged(
            f"step {step}: ranks hold different numbers of variables: {[len(row) for row in rows]}"
        )
    table = np.stack(rows)  # (ranks, variables)
    differing = np.flatnonzero((table != table[0]).any(axis=0))
    if differing.size:
        first = differing[0]
        values, group = np.unique(table[:, first], return_inverse=True)
        groups = [np.flatnonzero(group == g).tolist() for g in range(len(values))]
        raise ReplicasDiverged(
            f"step {step}: the ranks are no longer in lockstep. First difference: variable "
            f"'{entries[first].path}' ({differing.size} of {len(entries)} variables differ); ranks "
            f"that agree with each other: {sorted(groups)}. Every rank must apply the same "
            "reduced gradients from the same start: is the optimizer a "
            "app.distributed.DistributedOptimizer, and was the initial state broadcast?"
        )


class LockstepGuard(keras.callbacks.Callback):
    """Compare replicas every `every_steps` training steps, and at the end of epochs and training.

    Works in `fit()` and in Lockstep's own loop; a step is an update, which may take several passes
    (`backward_passes_per_step` of the optimizer). Costs one checksum of all replicated variables
    and one allgather of 8 bytes per variable. `on_agreed` is called on every rank after a
    comparison that found no difference. Put it before callbacks that save.
    """

    def __init__(
        self,
        every_steps: int = 100,
        world: World | None = None,
        on_agreed: Callable[[], Any] = lambda: None,
    ):
        super().__init__()
        if every_steps < 1:
            raise ValueError(f"every_steps={every_steps}: expected at least 1")
        self.every_steps = every_steps
        self.on_agreed = on_agreed
        self._world = world
        self._passes = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Join the world of the script."""
        self._world = self._world or current_world()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count passes, and compare after the last one of every K-th step.

        The optimizer's own count would not do: where it differs, some ranks would wait for others.
        """
        self._passes += 1
        passes_per_step = getattr(self.model.optimizer, "backward_passes_per_step", 1)
        if self._passes % (self.every_steps * passes_per_step) == 0:
            self._compare()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compare before callbacks behind this one, such as ModelCheckpoint, save the epoch."""
        self._compare()

    def on_train_end(self, logs: Any = None) -> None:
        """Compare once more."""
        self._compare()

    def _compare(self) -> None:
        if self._world is not None and self._world.size > 1:
            optimizer = self.model.optimizer  # it goes on counting in a resumed run
            compare(self._world, self.model, optimizer, int(optimizer.iterations))
            self.on_agreed()
