"""What every strategy provides, and what it works with. The package's docstring says how to add
one."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from app.distributed.reducers.reducer import Reduced, Reducer
from app.distributed.signals import Signals, cast_gradient, with_overflow
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
    signals: Signals
    name: str
    _kept: list[keras.Variable] = dataclasses.field(default_factory=list)  # by the reducer

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Have the reducer create what it keeps from step to step."""

        def add(*args: Any, **options: Any) -> Any:
            self._kept.append(add_variable(*args, **options))
            return self._kept[-1]

        self.reducer.build(variables, add)

    def mean(
        self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total: Any
    ) -> tuple[Reduced, tf.Tensor]:
        """(the weighted mean of all ranks' gradients, whether to update with it, bool ()); a
        collective.

        Not if no rank has an example, nor if a rank's numbers are not finite: then the reducer
        keeps what it kept before. Ranks scale before any cast: float16 sums of unscaled gradients
        overflow.
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
        shares = self.signals.scaled(gradients, variables, share)
        scale = tf.cast(self._loss_scale, tf.float32)
        good, overflow = self.signals.exchange(self.world, name, scale)
        kept = [tf.convert_to_tensor(variable.value) for variable in self._kept]
        reduced = self.reducer.reduce(shares, variables, self.world, name)
        reduced = reduced._replace(gradients=_cast_like(gradients, reduced.gradients))
        self.telemetry.count_exchange(gradients, reduced)
        self._keep_again(kept, unless=good & ~overflow)
        if hasattr(self.optimizer, "dynamic_scale"):
            reduced = reduced._replace(gradients=with_overflow(reduced.gradients, overflow))
        return reduced, good & (total > 0)

    @property
    def _loss_scale(self) -> Any:
        return getattr(self.optimizer, "dynamic_scale", 1.0)

    def _keep_again(self, values: Sequence[tf.Tensor], unless: tf.Tensor) -> None:
        def restore() -> bool:
            for variable, value in zip(self._kept, values, strict=True):
                variable.assign(value)
            return True

        if values:
            tf.cond(unless, lambda: True, restore)

    def update(self, reduced: Reduced, variables: Sequence[Any], applies: tf.Tensor) -> None:
        """Let the optimizer inside step if `applies`, bool (); the same on every rank.

        Otherwise nothing changes, momentum and step count included.
        """

        def update() -> bool:
            self.optimizer.apply(reduced.gradients, variables)
            return True

        def guarded() -> None:
            tf.cond(applies, update, lambda: True)

        self.telemetry.watch(reduced, variables, guarded, self._loss_scale)


def _cast_like(originals: Sequence[Any], gradients: Sequence[Any]) -> list[Any]:
    return [
        None if gradient is None else cast_gradient(gradient, original.dtype)
        for original, gradient in zip(originals, gradients, strict=True)
    ]
