"""Rounds: ranks take steps of their own, and average what these have made of their models.

Shared by the strategies that let models differ for a while.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from app.distributed.options import Sync
from app.distributed.reducers.reducer import Reduced
from app.distributed.strategies.strategy import Parts
from app.state import Kind, declare

# Floats of an optimizer that are no moments of gradients: the same everywhere after a round.
NO_SLOTS = ("learning_rate", "dynamic_scale")
# Counters of which a round takes the smallest; of others the largest.
SMALLEST = ("dynamic_scale", "step_counter")


def step_alone(
    parts: Parts, gradients: Sequence[Any], variables: Sequence[Any], weight: Any
) -> tf.Tensor:
    """Take this rank's own step, with nothing exchanged; in the graph of a step.

    Arguments as in `Strategy.apply`. Returns what the step counts for, float32 (): `weight` (1 if
    None), or 0 if it was skipped, since the rank has no examples or numbers that are not finite.
    """
    weight = tf.constant(1.0) if weight is None else tf.cast(weight, tf.float32)
    # Without a loss scale, as what is summed over ranks; rows may come twice.
    by = tf.where(weight > 0, 1.0, 0.0) / parts.loss_scale
    dense = [None if one is None else tf.convert_to_tensor(one) for one in gradients]
    own = Reduced(parts.signals.scaled(dense, variables, by), [])
    good, overflow = parts.signals.alone(parts.loss_scale)
    applies = good & (weight > 0)
    parts.update(parts.as_gradients(dense, own, overflow), variables, applies)
    return tf.where(applies & ~overflow, weight, 0.0)


class Averaging:
    """The anchor of a round, where all ranks have begun it, and the exchange that ends it.

    At the end each rank has moved by W_r - anchor, with e_r examples. All go on from
    anchor + sum_r e_r * (W_r - anchor) / sum_r e_r; the sum goes through the reducer, so it may be
    compressed. With an outer momentum m and rate a the mean movement d is what a gradient is to
    Nesterov's step (Douillard et al. 2023, arXiv:2311.08105): v = m v + d; anchor + a (d + m v).

    The anchor is taken anew in the first step of each round, so nobody has to keep it.
    """

    def __init__(self, parts: Parts, sync: Sync):
        self.parts = parts
        self.rate, self.momentum = sync.outer_learning_rate, sync.outer_momentum
        self._variables: list[Any] = []
        self._velocities: list[Any] = []

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Create the anchors, and the outer velocity if there is momentum. The optimizer inside is
        built already: its slots are declared as averaged at commit points."""

        def like(variable: Any, what: str, kind: Kind) -> Any:
            name = f"{variable.path.replace('/', '_')}_{what}"
            return add_variable(variable.shape, dtype=variable.dtype, name=name, kind=kind)

        self._variables = list(variables)
        self._anchors = [like(variable, "anchor", Kind.LOCAL) for variable in variables]
        if self.momentum:
            self._velocities = [like(v, "outer_velocity", Kind.REPLICATED) for v in variables]
        self._examples = add_variable(
            (), dtype="float32", name="examples_of_round", kind=Kind.LOCAL
        )
        for slot in slots_of(self.parts.optimizer):
            declare(slot, Kind.AVERAGED)

    def anchor(self) -> bool:
        """Begin a round: all ranks have the same model now; in the graph of a step."""
        for anchor, variable in zip(self._anchors, self._variables, strict=True):
            anchor.assign(variable.value)
        self._examples.assign(0.0)
        return True

    def count(self, examples: tf.Tensor) -> None:
        """This rank has taken a step of so many examples, float32 ()."""
        self._examples.assign_add(examples)

    def round(self) -> bool:
        """End a round: ranks have one model again; a collective, inside a graph or outside."""
        parts, variables = self.parts, self._variables
        name = f"{parts.name_for(variables)}.round"
        own, total = parts.counted(self._examples.value, None, name)
        moved = [_wide(v) - _wide(a) for v, a in zip(variables, self._anchors, strict=True)]
        # As 0 where a model is not finite any more: its rank goes on with that of the others.
        shares = parts.signals.scaled(moved, variables, tf.math.divide_no_nan(own, total))
        parts.signals.exchange(parts.world, name, tf.constant(1.0))
        reduced = parts.sum(shares, variables, name, counts=total > 0)
        share_counters(parts, name)

        def go_on() -> bool:
            for index, (variable, mean) in enumerate(
                zip(variables, reduced.gradients, strict=True)
            ):
                step = self._outer(index, mean)
                new = _wide(self._anchors[index]) + step
                variable.assign(tf.cast(new, variable.dtype))
            return True

        def go_back() -> bool:  # nobody has moved
            for variable, anchor in zip(variables, self._anchors, strict=True):
                variable.assign(anchor.value)
            return True

        tf.cond(total > 0, go_on, go_back)
        self._forget()
        return True

    def stay(self) -> None:
        """End a round in which no rank has taken a step yet: exchange the counters only."""
        for variable, anchor in zip(self._variables, self._anchors, strict=True):
            variable.assign(anchor.value)
        share_counters(self.parts, f"{self.parts.name_for(self._variables)}.round")
        self._forget()

    def _forget(self) -> None:
        """A commit point finds nothing of the round."""
        for variable in (*self._anchors, self._examples):
            variable.assign(tf.zeros_like(variable.value))

    def _outer(self, index: int, mean: tf.Tensor) -> tf.Tensor:
        """How far the anchor moves for the mean movement of ranks."""
        if self.momentum:
            velocity = self._velocities[index]
            now = self.momentum * _wide(velocity) + mean
            velocity.assign(tf.cast(now, velocity.dtype))
            mean = mean + self.momentum * now
        return mean if self.rate == 1.0 else self.rate * mean


def slots_of(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """What an optimizer remembers of gradients: its momentum, moments, averages of weights."""
    floats = [v for v in optimizer.variables if tf.as_dtype(v.dtype).is_floating]
    return [variable for variable in floats if variable.name not in NO_SLOTS]


def share_counters(parts: Parts, name: str) -> None:
    """Give all ranks the same counters, where some have skipped steps: the most steps taken, the
    lowest loss scale and the shortest time since it fell; a collective."""
    counters = [
        variable
        for variable in parts.optimizer.variables
        if variable.name == "dynamic_scale" or not tf.as_dtype(variable.dtype).is_floating
    ]
    with tf.device("CPU"):
        signs = [-1.0 if variable.name in SMALLEST else 1.0 for variable in counters]
        signs = tf.constant(signs, tf.float64)
        own = tf.stack([tf.cast(variable.value, tf.float64) for variable in counters])
        agreed = signs * parts.world.allmax(signs * own, f"{name}.counters")
        for variable, value in zip(counters, tf.unstack(agreed), strict=True):
            variable.assign(tf.cast(value, variable.dtype))


def _wide(variable: Any) -> tf.Tensor:
    value = tf.convert_to_tensor(variable.value)
    return value if value.dtype.size >= 4 else tf.cast(value, tf.float32)
