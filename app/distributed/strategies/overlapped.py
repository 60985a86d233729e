"""Overlapped: the gradients of a step travel while the next one computes, and are applied late."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.options import Sync
from app.distributed.signals import wide_type
from app.distributed.strategies.strategy import Parts
from app.state import Kind


class Overlapped:
    """SGD with gradients that are one step old: W(t+1) = W(t) - rate * mean gradient at W(t-1).

    Each rank keeps its shares of a step. In the next step their exchange needs nothing of that
    step's forward and backward pass, so the two run side by side, and a step takes as long as the
    longer of them. What came with the shares is kept beside them: whether they count at all, and
    whether they are zeros since the loss scale was too large. They are applied with the learning
    rate and under the loss scale of the step that applies them; a scale that is too large for two
    steps in a row is halved twice. N ranks take one rank's steps, and all have the same bits after
    each. The first step updates nothing; `settle()` applies the gradients that are left.

    All ranks hear of each other's signals in the step that they belong to.
    """

    is_equal_after_steps = True

    def __init__(self, parts: Parts, sync: Sync):
        self.parts = parts
        self._flush: Callable[[], Any] | None = None  # of that trace

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Create what waits for its exchange; all of it is empty at a commit point."""
        self._variables = list(variables)
        self._pending = [
            add_variable(
                variable.shape,
                dtype=wide_type(variable.dtype).name,
                name=f"{variable.path.replace('/', '_')}_pending_gradient",
                kind=Kind.LOCAL,
            )
            for variable in variables
        ]
        # 0 or 1, the same on all ranks.
        self._counts, self._overflow = (
            add_variable((), dtype="float32", name=f"pending_{name}", kind=Kind.LOCAL)
            for name in ("counts", "overflow")
        )

    def apply(
        self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total: Any
    ) -> None:
        """See `Strategy`. Raises ValueError unless it gets the variables of `build`."""
        if [id(variable) for variable in variables] != [id(own) for own in self._variables]:
            raise ValueError(
                f"strategy 'overlapped' got {len(variables)} variables and was built for "
                f"{len(self._variables)}: give every step the gradients of all of them"
            )
        there = [gradient is not None for gradient in gradients]
        self._flush = tf.function(lambda: self._finish(there), autograph=False)
        name = self.parts.name_for(variables)
        # The order matters: what reads before something else writes does not wait for it.
        update = self._exchange(there, name, beside=gradients)
        weight, total = self.parts.counted(weight, total, name)
        shares = self.parts.shares(gradients, variables, weight, total)
        good, overflow = self.parts.heard(name)
        update()
        for pending, share in zip(self._pending, shares, strict=True):
            if share is not None:
                pending.assign(tf.convert_to_tensor(share))
        self._counts.assign(tf.cast(good & (total > 0), tf.float32))
        self._overflow.assign(tf.cast(overflow, tf.float32))

    def _exchange(
        self, there: Sequence[bool], name: str, beside: Sequence[Any] = ()
    ) -> Callable[[], None]:
        """Exchange what is pending, `there` of the variables; a collective. Gives what updates the
        variables with it. `beside`: what is computed at the same time."""
        variables = self._variables
        counts, overflow = self._counts.value > 0, self._overflow.value > 0
        shares = [
            tf.convert_to_tensor(pending.value) if is_there else None
            for pending, is_there in zip(self._pending, there, strict=True)
        ]
        reduced = self.parts.sum(shares, variables, name, counts & ~overflow, beside)

        def update() -> None:
            scaled = self.parts.as_gradients(variables, reduced, overflow)
            self.parts.update(scaled, variables, counts)

        return update

    def _finish(self, there: Sequence[bool]) -> None:
        """Exchange and apply what is pending, and leave nothing."""
        self._exchange(there, f"{self.parts.name_for(self._variables)}.rest")()
        for variable in (*self._pending, self._counts, self._overflow):
            variable.assign(tf.zeros_like(variable.value))

    def are_equal(self) -> bool:
        """See `Strategy`."""
        return True

    def settle(self) -> None:
        """Apply the gradients of the last step, if there has been one since the last settle."""
        if self._flush is not None and float(self._counts.numpy()) > 0:
            self._flush()

    def abandon(self) -> None:
        """Nothing runs between steps."""
