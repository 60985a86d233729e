"""What a rank without examples gives in the place of a forward and a backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


class Nothing:
    """Loss 0, no losses, no logits, and gradients of 0.

    All ranks must exchange a gradient in the same way, dense or as rows, so its kind is read from a
    trace; once, until `forget`.
    """

    def __init__(self) -> None:
        self._gradients: list[Callable[[], Any]] | None = None

    def forget(self) -> None:
        """Other variables may learn now."""
        self._gradients = None

    def like(
        self, learn: Callable[[], tuple], variables: Sequence[keras.Variable], classes: Any
    ) -> tuple[tf.Tensor, list[tf.Tensor], Any, list[Any]]:
        """What `learn` would return for no examples.

        `learn`: gives (loss, losses by head, logits, gradients of the variables); `classes`: of the
        logits, or a list of them if those are a list.
        """
        if self._gradients is None:
            gradients = tf.function(learn).get_concrete_function().structured_outputs[3]
            self._gradients = [
                _zero_like(gradient, tuple(variable.shape))
                for gradient, variable in zip(gradients, variables, strict=True)
            ]
        logits = tf.nest.map_structure(lambda number: tf.zeros((0, number)), classes)
        losses = [tf.zeros((0,)) for _ in tf.nest.flatten(classes)]
        return tf.constant(0.0), losses, logits, [make() for make in self._gradients]


def _zero_like(gradient: Any, shape: tuple[int, ...]) -> Callable[[], Any]:
    """A function that makes a zero gradient of the same dtype and kind. `shape` is its variable's:
    a trace does not always know that of the gradient."""
    if gradient is None:
        return lambda: None
    if not isinstance(gradient, tf.IndexedSlices):
        dense_dtype = gradient.dtype
        return lambda: tf.zeros(shape, dense_dtype)
    row, dtype = shape[1:], gradient.values.dtype
    index_dtype = gradient.indices.dtype
    size_dtype = gradient.dense_shape.dtype
    return lambda: tf.IndexedSlices(
        tf.zeros([0, *row], dtype),
        tf.zeros([0], index_dtype),
        tf.constant(shape, size_dtype),
    )
