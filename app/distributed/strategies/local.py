"""Local: ranks take steps of their own, and average their models at the end of each round."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.options import Sync
from app.distributed.strategies.averaging import Averaging, step_alone
from app.distributed.strategies.every_step import EveryStep
from app.distributed.strategies.strategy import Parts


class Local:
    """Local SGD, post-local SGD (Lin et al. 2020, arXiv:1808.07217), and what else averages models:
    DiLoCo by an outer momentum, federated averaging (McMahan et al. 2017, arXiv:1602.05629) by
    rounds that end only at `settle()` and shards that differ.

    What becomes of state, where ranks count by the examples of their steps:

    - trainable variables: their own between rounds, averaged at the end of each;
    - slots of the optimizer (momentum, moments): their own, also from round to round; averaged at
      commit points;
    - `iterations`: the steps that a rank has not skipped; the most of all ranks after a round;
    - loss scale: each rank's own; the lowest after a round;
    - BatchNorm's statistics: each rank's own; averaged at commit points;
    - residuals of a compression: of what was sent at rounds; dealt evenly at commit points;
    - outer velocity: changes at rounds, the same on all ranks.

    A rank whose numbers are not finite skips its own step, alone; the others hear of it at the end
    of the round.
    """

    is_equal_after_steps = False

    def __init__(self, parts: Parts, sync: Sync, own_step: Callable[..., tf.Tensor] = step_alone):
        """`own_step`: the step between rounds, as `step_alone`."""
        self.parts = parts
        self.sync = sync
        self._own_step = own_step
        self._every_step = EveryStep(parts, sync)
        self._averaging = Averaging(parts, sync)

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Create the anchor and the counter of steps; every rank counts the same."""
        self._averaging.build(variables, add_variable)
        self._steps = add_variable((), dtype="int32", name="steps_of_round")

    def apply(
        self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total: Any
    ) -> None:
        """See `Strategy`."""

        def together() -> bool:
            self._every_step.apply(gradients, variables, weight, total)
            return True

        def alone() -> bool:
            self._step(gradients, variables, weight)
            return True

        if self.sync.from_epoch:
            # Every rank is in the same epoch, so all of them take the same branch.
            tf.cond(self.parts.epoch < self.sync.from_epoch, together, alone)
        else:
            alone()

    def _step(self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any) -> None:
        tf.cond(tf.equal(self._steps.value, 0), self._averaging.anchor, lambda: True)
        self._averaging.count(self._own_step(self.parts, gradients, variables, weight))
        self._steps.assign_add(1)
        if self.sync.every_steps:
            ends = self._steps.value >= self.sync.every_steps
            tf.cond(ends, self._end_round, lambda: True)

    def _end_round(self) -> bool:
        self._steps.assign(0)
        return self._averaging.round()

    def are_equal(self) -> Any:
        """After a round."""
        return tf.equal(self._steps.value, 0)

    def settle(self) -> None:
        """End a round that is going on; a shorter one."""
        if int(self._steps.numpy()) > 0:
            self._end_round()

    def abandon(self) -> None:
        """Nothing runs between steps."""
