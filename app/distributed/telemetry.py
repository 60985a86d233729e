"""What a training step says about itself: measured in its graph, read by the loop now and then.

The time is taken by operations that hang on the tensors they time and on nothing else, so the
exchange of early buckets still overlaps with the rest of the backward pass. On a GPU a gradient
counts as ready when its kernel is in the GPU's queue, and a reduced one when Horovod has it, so
`exposed_s` also holds what the GPU still had to compute: an upper bound, not a measurement.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from app.distributed.reducers.reducer import Reduced, Sent

NAMES = ("gradient_norm", "weight_norm", "update_norm", "compression_error")


@dataclasses.dataclass(frozen=True)
class StepFacts:
    """Of the last step that was looked into: global norms of the reduced gradient, the weights and
    the update; and the error of compression, relative to the norm of what was compressed."""

    gradient_norm: float
    weight_norm: float
    update_norm: float
    compression_error: float

    @property
    def update_ratio(self) -> float:
        """Size of the update relative to the weights."""
        return self.update_norm / self.weight_norm if self.weight_norm else 0.0


class Telemetry:
    """Belongs to one optimizer. `look()` before a step asks its update for the norms."""

    def __init__(self) -> None:
        self.keeps_gradients = False  # set before the first step is traced
        self._kept: list[tf.Variable] = []
        self._has_looked = False
        # Not Keras variables: they are no state of training.
        with tf.init_scope(), tf.device("CPU"):
            self._totals = tf.Variable(tf.zeros(3, tf.float64), trainable=False)
            self._looks = tf.Variable(False, trainable=False)
            self._facts = tf.Variable(tf.zeros(len(NAMES)), trainable=False)

    def look(self) -> None:
        """Have the next update note its norms."""
        self._looks.assign(True)
        self._has_looked = True

    @property
    def facts(self) -> StepFacts:
        """Of the last update that was looked into."""
        return StepFacts(*map(float, self._facts.numpy()))

    @property
    def gradients(self) -> list[np.ndarray]:
        """The reduced gradients of the last update that was looked into, dense, in the order of
        the variables; none before one was, or unless `keeps_gradients` is on."""
        return [variable.numpy() for variable in self._kept] if self._has_looked else []

    @property
    def totals(self) -> tuple[float, float, float]:
        """Of this rank so far: seconds of exposed exchange (from the last local gradient to the
        last reduced one), bytes handed to collectives, and what they would be uncompressed."""
        exposed_s, sent, uncompressed = self._totals.numpy().tolist()
        return exposed_s, sent, uncompressed

    def count_exchange(self, gradients: Sequence[Any], reduced: Reduced) -> None:
        """Add one exchange to the totals; in the graph of a step."""
        ready, received = _when_ready(gradients), _when_ready(reduced.gradients)
        self.count(tf.maximum(received - ready, 0.0), reduced.sent)

    def count(self, exposed_s: Any, sent: Sequence[Sent] = ()) -> None:
        """Add to the totals; `exposed_s`: float64 ()."""
        none = tf.constant(0.0, tf.float64)
        in_bytes = tf.add_n([none, *(one.bytes_sent for one in sent)])
        uncompressed = tf.add_n([none, *(one.bytes_uncompressed for one in sent)])
        self._totals.assign_add(tf.stack([exposed_s, in_bytes, uncompressed]))

    def watch(
        self,
        reduced: Reduced,
        variables: Sequence[Any],
        update: Callable[[], Any],
        loss_scale: Any = 1.0,
    ) -> None:
        """Run `update()`, with its norms if this step is looked into; in the graph of a step.

        `loss_scale`: what the gradients are too large by.
        """
        self._make_room(variables)
        looks = self._looks.read_value()
        scale = tf.cast(loss_scale, tf.float32)

        def begin() -> list[tf.Tensor]:
            for place, gradient in zip(self._kept, reduced.gradients, strict=False):
                place.assign(tf.cast(_dense(gradient, place), tf.float32) / scale)
            before = [tf.identity(variable.value) for variable in variables]
            return [_norm(reduced.gradients) / scale, _norm(before), *before]

        def skip() -> list[tf.Tensor]:
            nothing = [tf.zeros([0], variable.dtype) for variable in variables]
            return [tf.constant(0.0), tf.constant(0.0), *nothing]

        def end() -> bool:
            changes = [
                variable.value - tf.reshape(old, variable.shape)
                for variable, old in zip(variables, before, strict=True)
            ]
            facts = [gradient_norm, weight_norm, _norm(changes), _compression_error(reduced.sent)]
            self._facts.assign(tf.stack(facts))
            self._looks.assign(False)
            return True

        # Around the update, not with one in each branch, which would have to be traced twice.
        gradient_norm, weight_norm, *before = tf.cond(looks, begin, skip)
        update()
        tf.cond(looks, end, lambda: True)

    def _make_room(self, variables: Sequence[Any]) -> None:
        if self.keeps_gradients and not self._kept:
            with tf.init_scope(), tf.device("CPU"):
                self._kept = [
                    tf.Variable(tf.zeros(variable.shape), trainable=False) for variable in variables
                ]


def _dense(gradient: Any, place: tf.Variable) -> tf.Tensor:
    return tf.zeros(place.shape) if gradient is None else tf.convert_to_tensor(gradient)


def _compression_error(sent: list[Sent]) -> tf.Tensor:
    """|restored - exact| / |exact| over all that was sent, float32 ()."""
    versions = [one.versions() for one in sent]
    exact = [tf.cast(one, tf.float32) for one, _ in versions]
    received = [tf.cast(other, tf.float32) for _, other in versions]
    errors = [one - other for one, other in zip(received, exact, strict=True)]
    return tf.math.divide_no_nan(_norm(errors), _norm(exact))


def _when_ready(tensors: Sequence[Any]) -> tf.Tensor:
    """The time, in s, when all these were there."""
    flat = [
        tensor.values if isinstance(tensor, tf.IndexedSlices) else tensor
        for tensor in tensors
        if tensor is not None
    ]
    # Joined where the tensors are: an edge of each to the CPU's clock would be a copy of its own.
    all_there = [] if tf.executing_eagerly() else [tf.group(*flat)]
    with tf.control_dependencies(all_there), tf.device("CPU"):
        return tf.timestamp()


def _norm(tensors: Sequence[Any]) -> tf.Tensor:
    there = [tf.cast(_values(t), tf.float32) for t in tensors if t is not None]
    return tf.linalg.global_norm(there) if there else tf.constant(0.0)


def _values(tensor: Any) -> tf.Tensor:
    return tensor.values if isinstance(tensor, tf.IndexedSlices) else tf.convert_to_tensor(tensor)
