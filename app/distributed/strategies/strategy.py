"""What every strategy provides, and what it works with. The package's docstring says how to add
one."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from app.distributed.reducers.reducer import Reduced, Reducer
from app.distributed.signals import Signals, Vector, cast_gradient, times, with_overflow
from app.distributed.telemetry import Telemetry
from app.distributed.world import World

VECTOR = Vector()


class Strategy(Protocol):
    """Decides when gradients are exchanged and variables updated; the same on every rank."""

    is_equal_after_steps: bool  # whether all ranks hold the same variables after each step
    parts: "Parts"  # those given, or with a reducer around the one given

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Create what is kept from step to step; called once, by the optimizer's `build`."""
        ...

    def apply(self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total: Any):
        """Take this rank's gradients of one pass; a collective, in the graph of a step.

        `weight`: the number of examples behind them, a number or scalar tensor, or None if every
        rank counts 1. `total`: the weights of all ranks together, or None if not known.
        """
        ...

    def are_equal(self) -> Any:
        """Whether all ranks hold the same variables after the step so far, bool (), in its graph;
        the same on every rank."""
        ...

    def settle(self) -> None:
        """Leave nothing pending: all ranks have one state; a collective, outside graphs."""
        ...

    def abandon(self) -> None:
        """Wait for nothing any more: an exchange has failed. Its variables are brought back by
        others."""
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
    epoch: tf.Variable  # how far training is, float32 ()

    def mean(
        self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total: Any
    ) -> tuple[Reduced, tf.Tensor]:
        """(the weighted mean of all ranks' gradients, whether to update with it, bool ()); a
        collective.

        Not if no rank has an example, nor if a rank's numbers are not finite: then the reducer
        keeps what it kept before.
        """
        name = self.name_for(variables)
        weight, total = self.counted(weight, total, name)
        shares = self.shares(gradients, variables, weight, total)
        if self._signals_ride():
            reduced, good, overflow = self._sum_with_signals(shares, variables, name)
        else:
            good, overflow = self.heard(name)
            reduced = self.sum(shares, variables, name, counts=good & ~overflow)
        return self.as_gradients(gradients, reduced, overflow), good & (total > 0)

    def _signals_ride(self) -> bool:
        """Whether what ranks tell each other travels in a bucket of gradients. A collective of its
        own made steps of a small model a fifth longer (NOTES.md); on GPUs it runs beside them."""
        on_cpu = not tf.config.list_logical_devices("GPU")
        return on_cpu and getattr(self.reducer, "is_exact_for_vectors", False)

    def _sum_with_signals(
        self, shares: Sequence[Any], variables: Sequence[Any], name: str
    ) -> tuple[Reduced, tf.Tensor, tf.Tensor]:
        """`sum` and `heard` in one."""
        own = self.signals.tell(self.loss_scale)
        # In front: buckets are filled from the back, and these are known when all gradients are.
        reduced = self.reducer.reduce([own, *shares], [VECTOR, *variables], self.world, name)
        total, *gradients = reduced.gradients
        reduced = reduced._replace(gradients=gradients)
        good, overflow = self.signals.judge(own, total)
        self.telemetry.count_exchange(shares, reduced)
        self.keep(reduced, good & ~overflow)
        return reduced, good, overflow

    def name_for(self, variables: Sequence[Any]) -> str:
        """How the names of collectives about these variables begin."""
        shapes = str([tuple(variable.shape) for variable in variables])
        return f"{self.name}.{zlib.crc32(shapes.encode()):08x}"

    def counted(self, weight: Any, total: Any, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        """(what this rank counts for, what all ranks do), float32 (); a collective where `total` is
        not known."""
        if weight is None:
            return tf.constant(1.0), self.world.size_tensor()
        weight = tf.cast(weight, tf.float32)
        if total is None:
            total = self.world.allreduce(weight, f"{name}.weight")
        return weight, tf.cast(total, tf.float32)

    def shares(
        self,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        weight: tf.Tensor,
        total: tf.Tensor,
    ) -> list[Any]:
        """This rank's shares of the weighted mean, float32 or float64, without the loss scale; 0
        of a gradient that is not finite, of which all ranks will hear.

        Ranks scale before any cast: float16 sums of unscaled gradients overflow. The loss scale
        changes, and is nothing for what a reducer owes to later steps.
        """
        # In float64, since gradients may be; rounded to float32 it is what float32 would give.
        weight, total = tf.cast(weight, tf.float64), tf.cast(total, tf.float64)
        share = tf.math.divide_no_nan(weight, total) / tf.cast(self.loss_scale, tf.float64)
        return self.signals.scaled(gradients, variables, share)

    def heard(self, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        """(whether no rank has numbers that are not finite, or only by the loss scale; whether one
        has them by the loss scale), bool (); a collective."""
        return self.signals.exchange(self.world, name, self.loss_scale)

    def sum(
        self,
        shares: Sequence[Any],
        variables: Sequence[Any],
        name: str,
        counts: tf.Tensor,
        beside: Sequence[Any] = (),
    ) -> Reduced:
        """What the reducer makes of all ranks' shares; a collective. `counts`: whether the step
        does, bool (); if not, the reducer keeps what it kept before. `beside`: tensors that are
        computed meanwhile; what the exchange takes after these is what it costs."""
        reduced = self.reducer.reduce(shares, variables, self.world, name)
        self.telemetry.count_exchange([*shares, *beside], reduced)
        self.keep(reduced, counts)
        return reduced

    def keep(self, reduced: Reduced, counts: tf.Tensor) -> None:
        """Let the reducer keep what it is to keep, if `counts`, bool ()."""

        def assign() -> bool:
            for variable, value in reduced.keeps:
                variable.assign(value)
            return True

        if reduced.keeps:
            tf.cond(counts, assign, lambda: True)

    def as_gradients(
        self, gradients: Sequence[Any], reduced: Reduced, overflow: tf.Tensor
    ) -> Reduced:
        """The sums as the optimizer inside expects them: in the dtypes of `gradients`, under the
        loss scale, with a NaN if `overflow` so that it lowers that."""
        scaled = reduced.gradients
        if self._scales_loss:
            scaled = [None if one is None else times(one, self.loss_scale) for one in scaled]
            scaled = with_overflow(scaled, overflow)
        return reduced._replace(gradients=_cast_like(gradients, scaled))

    @property
    def _scales_loss(self) -> bool:
        return hasattr(self.optimizer, "dynamic_scale")

    @property
    def loss_scale(self) -> tf.Tensor:
        """What the gradients are too large by, float32 ()."""
        return tf.cast(getattr(self.optimizer, "dynamic_scale", 1.0), tf.float32)

    def update(self, reduced: Reduced, variables: Sequence[Any], applies: tf.Tensor) -> None:
        """Let the optimizer inside step if `applies`, bool (); the same on every rank.

        Otherwise nothing changes, momentum and step count included. All exchanges come before, so
        that one which fails leaves the variables as they were (DESIGN: a failure in mid-step).
        """
        dense = [
            one.values if isinstance(one, tf.IndexedSlices) else one
            for one in reduced.gradients
            if one is not None
        ]
        # Joined where the tensors are: a copy of each to another device would take longer.
        all_there = [] if tf.executing_eagerly() else [tf.group(*dense)]
        with tf.control_dependencies(all_there):
            applies = tf.identity(applies)

        def update() -> bool:
            self.optimizer.apply(reduced.gradients, variables)
            return True

        def guarded() -> None:
            tf.cond(applies, update, lambda: True)

        self.telemetry.watch(reduced, variables, guarded, self.loss_scale)


def _cast_like(originals: Sequence[Any], gradients: Sequence[Any]) -> list[Any]:
    return [
        None if gradient is None else cast_gradient(gradient, original.dtype)
        for original, gradient in zip(originals, gradients, strict=True)
    ]
