"""What every strategy provides, and what it works with. The package's docstring says how to add
one."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from app.distributed.reducers.reducer import Reduced, Reducer
from app.distributed.telemetry import Telemetry
from app.distributed.world import World


class Strategy(Protocol):
    """Decides when gradients are exchanged and variables updated; the same on every rank."""

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Create what is kept from step to step; called once, by the optimizer's `build`."""
        ...

    def apply(self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total: Any):
        """Take this rank's gradients of one pass; a collective, in the graph of a step.

        `weight`: the number of examples behind them, a number or scalar tensor, or None if every
        rank counts 1. `total`: the weights of all ranks together, or None if not known.
        """
        ...

    def settle(self) -> None:
        """Leave nothing pending: all ranks have one state; a collective, outside graphs."""
        ...


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a strategy works with.

    Collectives of different ranks find each other by their names. Keras' automatic names count
    what a process has made, and one rank may have made more, so the names here come from `name`
    and the shapes of the variables. Two optimizers of equal shapes that exchange at the same time
    need a `name` each; Horovod says so (duplicate tensor name).
    """

    optimizer: keras.optimizers.Optimizer  # the one inside
    reducer: Reducer
    world: World
    telemetry: Telemetry
    name: str

    def mean(
        self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total: Any
    ) -> tuple[Reduced, tf.Tensor]:
        """(the weighted mean of all ranks' gradients, total weight as float32 ()); a collective.

        Ranks scale before any cast: float16 sums of unscaled gradients overflow.
        """
        shapes = str([tuple(variable.shape) for variable in variables])
        name = f"{self.name}.{zlib.crc32(shapes.encode()):08x}"
        if weight is None:
            weight, total = tf.constant(1.0), self.world.size_tensor()
        else:
            weight = tf.cast(weight, tf.float32)
            if total is None:
                total = self.world.allreduce(weight, f"{name}.weight")
            total = tf.cast(total, tf.float32)
        share = tf.math.divide_no_nan(weight, total)
        reduced = self.reducer.reduce(gradients, variables, share, self.world, name)
        self.telemetry.count_exchange(gradients, reduced)
        return reduced, total

    def update(self, reduced: Reduced, variables: Sequence[Any], total: Any = None) -> None:
        """Let the optimizer inside step, unless the total weight is 0.

        A step that no rank has an example for changes nothing, momentum and step count included.
        """

        def update() -> bool:
            self.optimizer.apply(reduced.gradients, variables)
            return True

        guarded = update if total is None else lambda: tf.cond(total > 0, update, lambda: True)
        scale = getattr(self.optimizer, "dynamic_scale", 1.0)
        self.telemetry.watch(reduced, variables, guarded, scale)
