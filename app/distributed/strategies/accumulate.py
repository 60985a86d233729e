"""Accumulate: several passes make one step, with the weighted mean of all their gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.signals import Signals
from app.distributed.strategies.strategy import Strategy
from app.distributed.world import World
from app.state import Kind


class Accumulate:
    """Hands the weighted mean of every `passes` passes on to another strategy.

    A gradient that is not finite does not enter a sum; its step is skipped when its turn comes.
    """

    def __init__(self, strategy: Strategy, world: World, signals: Signals, passes: int):
        self.strategy = strategy
        self.is_equal_after_steps = strategy.is_equal_after_steps
        self.parts = strategy.parts
        self.world = world
        self.signals = signals
        self.passes = passes
        self._knows_total: bool | None = None  # in the passes so far
        self._flush: Callable[[], Any] | None = None  # that of the last trace

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Create the sums. Every rank counts the same passes, whatever it sums in them."""
        self._sums = {
            id(variable): add_variable(
                variable.shape,
                dtype=variable.dtype,
                name=f"{variable.path.replace('/', '_')}_accumulated_gradient",
                kind=Kind.LOCAL,
            )
            for variable in variables
        }
        self._weight, self._total = (
            add_variable((), dtype="float32", name=f"accumulated_{name}", kind=Kind.LOCAL)
            for name in ("weight", "total")
        )
        self._passed = add_variable((), dtype="int32", name="accumulated_passes")
        self.strategy.build(variables, add_variable)

    def apply(
        self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total: Any
    ) -> None:
        """Add the pass to the sums; at the last one hand on their means and clear them."""
        if weight is None:
            weight, total = 1.0, self.world.size_tensor()
        weight = tf.cast(weight, tf.float32)
        knows_total = total is not None
        if self._knows_total not in (None, knows_total):
            raise ValueError("total_weight: give it in every pass, or in none")
        self._knows_total = knows_total
        if knows_total:
            self._total.assign_add(tf.cast(total, tf.float32))
        sums = [self._sums[id(variable)] for variable in variables]
        there = [gradient is not None for gradient in gradients]
        weighted = self.signals.scaled(gradients, variables, weight)
        for gradient, added in zip(weighted, sums, strict=True):
            if gradient is not None:
                added.assign_add(tf.cast(tf.convert_to_tensor(gradient), added.dtype))
        self._weight.assign_add(weight)
        self._passed.assign_add(1)

        def flush() -> bool:
            own = tf.convert_to_tensor(self._weight.value)
            means = [
                tf.math.divide_no_nan(added.value, tf.cast(own, added.dtype)) if is_there else None
                for added, is_there in zip(sums, there, strict=True)
            ]
            all_ranks = tf.convert_to_tensor(self._total.value) if knows_total else None
            self.strategy.apply(means, variables, own, all_ranks)
            for variable in (*sums, self._weight, self._total, self._passed):
                variable.assign(tf.zeros_like(variable.value))
            return True

        self._flush = flush
        # Every rank counts the same passes, so all of them take the same branch.
        tf.cond(self._passed.value >= self.passes, flush, lambda: True)

    def are_equal(self) -> Any:
        """See `Strategy`."""
        return self.strategy.are_equal()

    def settle(self) -> None:
        """Make a step of the passes that are pending, as `fit()` may leave some at the end of an
        epoch; then settle the other strategy."""
        if self._flush is not None and int(self._passed.numpy()) > 0:
            self._flush()
        self.strategy.settle()

    def abandon(self) -> None:
        """See `Strategy`."""
        self.strategy.abandon()
