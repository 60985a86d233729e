"""What ranks tell each other in the graph of a step: a wish to stop, and numbers gone bad.

With every exchange of gradients one small vector is summed over ranks, in the bucket of the last
gradients or at the same time as that, so that all ranks know the same before the update. A gradient
that is not finite, or that comes with a loss that is not, travels as zeros: no reducer, codec,
residual or sum of passes ever sees it. Then no rank updates anything.

Under a loss scale above 1 gradients overflow now and then, and the remedy is a lower scale. So a
gradient that is not finite while its loss is, is left to the loss-scaling optimizer inside, which
skips the step by itself and halves its scale; `heard` does not count it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from app.distributed.world import World

LOSS = "loss"


class Vector(NamedTuple):
    """What a reducer asks of a variable, for what ranks tell each other beside gradients."""

    shape: tf.TensorShape = tf.TensorShape([4])
    path: str = "signals"
    dtype: str = "float32"


class Signals:
    """Belongs to one optimizer; see the module. Nothing of it is state of training."""

    def __init__(self) -> None:
        self._names = [LOSS]  # then the paths of variables, in the order they were met
        # On the CPU, where the condition of the update is wanted.
        with tf.init_scope(), tf.device("CPU"):
            self._wish = tf.Variable(0.0, trainable=False)
            # Of this rank since its last exchange: 1 if a (gradient, loss) was not finite.
            self._bad = tf.Variable(tf.zeros(2), trainable=False)
            # The same, of this rank's steps without an exchange: it has skipped these alone.
            self._skipped = tf.Variable(tf.zeros(2), trainable=False)
            self._heard = tf.Variable(tf.zeros(3), trainable=False)
            self._first_bad = tf.Variable(-1, trainable=False)  # of `_names`; -1: none

    def ask_to_stop(self) -> None:
        """From the next exchange on, all ranks hear that this one wants to stop."""
        with tf.init_scope():
            self._wish.assign(1.0)

    def forget(self) -> None:
        """Nothing was said, but for this rank's own wish."""
        for variable in (self._bad, self._skipped, self._heard):
            variable.assign(tf.zeros_like(variable))
        self._first_bad.assign(-1)

    def heard(self) -> tf.Tensor:
        """How many ranks, in the newest exchange, wanted to stop, had gradients that were not
        finite (other than by their loss scale), had a loss that was not finite: float32 (3,), with
        the same bits on every rank; inside a graph or outside. All -1 after a step in which
        nothing was exchanged."""
        return tf.convert_to_tensor(self._heard)

    def first_bad(self) -> str | None:
        """Where this rank's numbers went bad in the newest step that was bad on any rank: the path
        of the first variable whose gradient was not finite, "loss" if none was but the loss, or
        None if all were fine here."""
        index = int(self._first_bad.numpy())
        return None if index < 0 else self._names[index]

    def note_loss(self, loss: Any, weight: Any) -> None:
        """Look at this rank's loss of a pass, a scalar; in the graph of a step."""
        finite = tf.math.is_finite(tf.cast(loss, tf.float32))
        with tf.device("CPU"):
            bad = _counts(weight) & ~finite
            self._bad.assign(tf.maximum(self._bad, [0.0, tf.cast(bad, tf.float32)]))
            self._first_bad.assign(tf.where(bad, 0, self._first_bad))

    def scaled(self, gradients: Sequence[Any], variables: Sequence[Any], by: tf.Tensor) -> list:
        """`by * gradient` of each, 0 where a gradient is not finite or `by` is 0; in the graph of a
        step. Each waits for its own gradient only. Gradients of less than 32 bits become float32: a
        share of one may be too small for them.

        A gradient is looked at through the sum of its elements, so one whose sum is beyond float32
        counts as not finite.
        """
        gradients = [None if gradient is None else _wide(gradient) for gradient in gradients]
        there = [index for index, gradient in enumerate(gradients) if gradient is not None]
        finite = {index: tf.math.is_finite(_sum(gradients[index])) for index in there}
        if there:
            self._note_gradients([variables[i] for i in there], list(finite.values()), by)
        by_type = {gradients[i].dtype: tf.cast(by, gradients[i].dtype) for i in there}
        return [
            None
            if gradient is None
            else times(gradient, tf.where(finite[index], by_type[gradient.dtype], 0.0))
            for index, gradient in enumerate(gradients)
        ]

    def _note_gradients(self, variables, finite: list[tf.Tensor], weight: tf.Tensor) -> None:
        names = tf.constant([self._name(variable.path) for variable in variables])
        wrong = ~tf.stack(finite)  # where the gradients are: one copy to the CPU, not one of each
        with tf.device("CPU"):
            bad = _counts(weight) & tf.reduce_any(wrong)
            self._bad.assign(tf.maximum(self._bad, [tf.cast(bad, tf.float32), 0.0]))
            first = names[tf.argmax(tf.cast(wrong, tf.int32))]
            self._first_bad.assign(tf.where(bad, first, self._first_bad))

    def _name(self, path: str) -> int:
        if path not in self._names:
            self._names.append(path)
        return self._names.index(path)

    def exchange(
        self, world: World, name: str, loss_scale: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(whether the numbers of all ranks are good or explained by the loss scale, whether any is
        explained by it), bool (); a collective, in the graph of a step."""
        with tf.device("CPU"):
            own = self.tell(loss_scale)
            return self.judge(own, world.allreduce(own, f"{name}.signals"))

    def judge(self, own: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As `exchange`, of a sum over ranks that came otherwise; see `hear`."""
        with tf.device("CPU"):
            self.hear(own, total)
            return ~tf.reduce_any(total[1:3] > 0), total[3] > 0

    def tell(self, loss_scale: tf.Tensor) -> tf.Tensor:
        """What this rank has to say since it was last asked, float32 (4,), whose sum over ranks it
        is to `hear`: as `heard`, and whether gradients are bad by the loss scale."""
        with tf.device("CPU"):
            gradient, loss, explained = self._own(loss_scale)
            skipped = tf.convert_to_tensor(self._skipped)
            gradient, loss = tf.unstack(tf.maximum([gradient, loss], skipped))
            own = tf.stack([self._wish, gradient, loss, explained])
            for variable in (self._bad, self._skipped):
                variable.assign(tf.zeros(2))
            return own

    def hear(self, own: tf.Tensor, total: tf.Tensor) -> None:
        """Note the sum over ranks of what each of them has told; `own` is what this one has."""
        with tf.device("CPU"):
            any_bad = tf.reduce_any(total[1:] > 0)
            is_mine = tf.reduce_any(own[1:] > 0)
            self._first_bad.assign(tf.where(any_bad & ~is_mine, -1, self._first_bad))
            self._heard.assign(total[:3])

    def alone(self, loss_scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As `exchange`, of this rank only: nothing is exchanged, and what was bad is told at the
        next exchange."""
        with tf.device("CPU"):
            gradient, loss, explained = self._own(loss_scale)
            now = tf.stack([gradient, loss])
            self._skipped.assign(tf.maximum(self._skipped, now))
            self._bad.assign(tf.zeros(2))
            self._heard.assign(-tf.ones(3))
            return ~tf.reduce_any(now > 0), explained > 0

    def _own(self, loss_scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Whether this rank has bad gradients, a bad loss, gradients that are explained by the loss
        scale; each 0 or 1, float32 ()."""
        gradient, loss = tf.unstack(tf.convert_to_tensor(self._bad))
        explained = gradient * (1.0 - loss) * tf.cast(loss_scale > 1.0, tf.float32)
        return gradient - explained, loss, explained


def with_overflow(gradients: Sequence[Any], overflow: tf.Tensor) -> list[Any]:
    """The same gradients, the smallest of them NaN if `overflow`: what a loss-scaling optimizer
    reacts to. All ranks have the same bits before and after."""
    sizes = {
        index: gradient.shape.num_elements() or 0
        for index, gradient in enumerate(gradients)
        if isinstance(gradient, tf.Tensor)
    }
    found = list(gradients)
    smallest = min(sizes, key=sizes.__getitem__) if sizes else None
    for index, gradient in enumerate(gradients):
        if index == smallest or (smallest is None and gradient is not None):
            factor = tf.where(overflow, float("nan"), 1.0)
            found[index] = _map(
                gradient, lambda values, by=factor: values * tf.cast(by, values.dtype)
            )
    return found


def _counts(weight: Any) -> tf.Tensor:
    """Whether a pass of this weight counts: one without examples may hold NaN."""
    return tf.constant(True) if weight is None else tf.cast(weight, tf.float32) > 0


def _sum(gradient: Any) -> tf.Tensor:
    return tf.reduce_sum(gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient)


def cast_gradient(gradient: Any, dtype: tf.DType) -> Any:
    """A gradient, dense or rows, in another dtype."""
    return _map(gradient, lambda one: tf.cast(one, dtype))


def wide_type(dtype: Any) -> tf.DType:
    """What gradients of this type, also one of NumPy, are exchanged in: at least float32."""
    dtype = tf.as_dtype(dtype)
    return dtype if dtype.size >= 4 else tf.float32


def _wide(gradient: Any) -> Any:
    return cast_gradient(gradient, wide_type(gradient.dtype))  # `apply` also takes NumPy's arrays


def times(gradient: Any, by: Any) -> Any:
    """A gradient, dense or rows, times a number; 0 where the number is 0, whatever the gradient."""
    return _map(gradient, lambda values: tf.math.multiply_no_nan(values, tf.cast(by, values.dtype)))


def _map(gradient: Any, change: Any) -> Any:
    """`change` of a tensor, or of the rows of `tf.IndexedSlices`."""
    if not isinstance(gradient, tf.IndexedSlices):
        return change(tf.convert_to_tensor(gradient))
    return tf.IndexedSlices(change(gradient.values), gradient.indices, gradient.dense_shape)
