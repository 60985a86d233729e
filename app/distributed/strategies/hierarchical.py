"""Hierarchical: gradients are summed inside a host first, and go between hosts in pieces."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.options import Sync
from app.distributed.reducers.by_host import ByHost
from app.distributed.reducers.codec import Stateless
from app.distributed.reducers.dense import DenseBuckets
from app.distributed.strategies.every_step import EveryStep
from app.distributed.strategies.local import Local
from app.distributed.strategies.strategy import Parts, Strategy
from app.distributed.world import World

BUCKET_BYTES = 25_000_000  # inside a host


class Hierarchical:
    """Between hosts at every step, by way of `ByHost`: one worker's step, as `EveryStep`. Or in
    rounds of `sync.every_steps` steps, in which each host takes steps of its own: what `Local` says
    of a rank is then true of a host.
    """

    def __init__(self, parts: Parts, sync: Sync):
        """A collective. Raises UserError if hosts have unequal numbers of ranks."""
        local, across = parts.world.by_host()
        self.reducer = ByHost(parts.reducer, local, across)
        self.parts = dataclasses.replace(parts, reducer=self.reducer)
        self._of_hosts: Strategy = EveryStep(self.parts, sync)
        if sync.every_steps != 1:
            self._of_hosts = Local(self.parts, sync, _HostStep(local))
        self.is_equal_after_steps = self._of_hosts.is_equal_after_steps

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """See `Strategy`."""
        self._of_hosts.build(variables, add_variable)

    def apply(
        self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total: Any
    ) -> None:
        """See `Strategy`."""
        self._of_hosts.apply(gradients, variables, weight, total)

    def are_equal(self) -> Any:
        """See `Strategy`."""
        return self._of_hosts.are_equal()

    def settle(self) -> None:
        """What the reducer has found out of this rank's pieces is not state of all ranks."""
        self._of_hosts.settle()
        self.reducer.clear()

    def abandon(self) -> None:
        """See `Strategy`."""
        self._of_hosts.abandon()


class _HostStep:
    """One step that the ranks of a host take together, with nothing exchanged between hosts."""

    def __init__(self, local: World):
        self.local = local
        self._sums = DenseBuckets(Stateless(), BUCKET_BYTES)

    def __call__(
        self, parts: Parts, gradients: Sequence[Any], variables: Sequence[Any], weight: Any
    ) -> tf.Tensor:
        """As `step_alone`; all ranks of the host skip it if one has bad numbers."""
        inside = dataclasses.replace(parts, world=self.local)
        name = f"{parts.name_for(variables)}.host"
        own, total = inside.counted(weight, None, name)
        dense = [None if one is None else tf.convert_to_tensor(one) for one in gradients]
        shares = inside.shares(dense, variables, own, total)
        is_good, overflows = parts.signals.alone(parts.loss_scale)
        said = tf.cast(tf.stack([~is_good, overflows]), tf.float32)
        bad, overflow = tf.unstack(self.local.allreduce(said, f"{name}.bad") > 0)
        self._sums.build(variables, _keep_nothing)
        reduced = self._sums.reduce(shares, variables, self.local, name)
        applies = ~bad & (total > 0)
        parts.update(inside.as_gradients(dense, reduced, overflow), variables, applies)
        return tf.where(applies & ~overflow, own, 0.0)


def _keep_nothing(*_: Any, **__: Any) -> Any:
    raise AssertionError("plain sums keep nothing")
