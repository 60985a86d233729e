"""The few layers that the models need and Keras lacks, or has only slower."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops


# Another package than that of the layer over all ranks, which is a "BatchNormalization" too.
@keras.saving.register_keras_serializable(package="lockstep_models")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` that takes images (B, H, W, C) through TensorFlow's fused
    kernel, where Keras 3 composes it of some ten operations (NOTES.md: 0.68 of a step's time).

    The same but for rounding; statistics are float32 whatever the layer computes in. All that the
    kernel does not know (float64, other shapes and axes, masks, renorm) is as Keras has it. So is
    the name, since Keras' files of weights go by the names of classes.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not self._is_fused(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        learns = bool(training and self.trainable)
        nothing = tf.zeros((0,))
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma) if self.scale else tf.ones(inputs.shape[-1:]),
            offset=tf.convert_to_tensor(self.beta) if self.center else tf.zeros(inputs.shape[-1:]),
            mean=nothing if learns else tf.convert_to_tensor(self.moving_mean),
            variance=nothing if learns else tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            is_training=learns,
        )
        if learns:
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
            # The kernel's variance is n / (n - 1) times that which it normalises with.
            news = (self.moving_mean, mean), (self.moving_variance, variance * (1 - 1 / count))
            for moving, new in news:
                moving.assign(moving * self.momentum + new * (1 - self.momentum))
        return outputs

    def _is_fused(self, inputs: Any, mask: Any) -> bool:
        is_last = len(inputs.shape) == 4 and self.axis in (-1, 3)
        is_float32 = self.variable_dtype == "float32" and inputs.dtype != "float64"
        return is_last and is_float32 and mask is None and not self.renorm


@keras.saving.register_keras_serializable(package="lockstep")
class Dropout(keras.layers.Layer):
    """Dropout whose random state has the same variable path in every process.

    `keras.layers.Dropout` calls that variable `seed_generator_<n>/seed_generator_state`, where n
    counts the generators made earlier in the process; here it is `<layer>/seed_generator_state`.
    `noise_shape`: as there; None along an axis is its size.
    """

    def __init__(
        self, rate: float, noise_shape: Sequence[int | None] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.noise_shape = noise_shape
        if rate > 0:
            self.seed_generator = keras.random.SeedGenerator(name=self.name)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training and self.rate > 0:
            return keras.random.dropout(
                inputs, self.rate, noise_shape=self.noise_shape, seed=self.seed_generator
            )
        return inputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "noise_shape": self.noise_shape}


@keras.saving.register_keras_serializable(package="lockstep")
class IsToken(keras.layers.Layer):
    """Tell tokens from padding: int32 ids (B, T) -> bool (B, T), True where the id is not 0."""

    def call(self, tokens: Any) -> Any:
        return ops.not_equal(tokens, 0)


@keras.saving.register_keras_serializable(package="lockstep")
class KeepTokens(keras.layers.Layer):
    """Set the vectors of padding to zero: (B, T, C) and bool (B, T) -> (B, T, C)."""

    def call(self, vectors: Any, is_token: Any) -> Any:
        return ops.where(is_token[:, :, None], vectors, ops.zeros_like(vectors))


@keras.saving.register_keras_serializable(package="lockstep")
class AverageTokens(keras.layers.Layer):
    """Average the vectors of tokens: (B, T, C) and bool (B, T) -> (B, C).

    A text of nothing but padding gives zeros, where Keras' GlobalAveragePooling1D gives NaN.
    Give it dtype="float32": under mixed_float16 a long sum would lose digits.
    """

    def call(self, vectors: Any, is_token: Any) -> Any:
        kept = ops.where(is_token[:, :, None], vectors, ops.zeros_like(vectors))  # (B, T, C)
        tokens = ops.sum(ops.cast(is_token, vectors.dtype), axis=1, keepdims=True)  # (B, 1)
        return ops.sum(kept, axis=1) / ops.maximum(tokens, 1)


@keras.saving.register_keras_serializable(package="lockstep")
class AddPositions(keras.layers.Layer):
    """Add a learned vector for each position: (B, T, C) -> (B, T, C), with T <= max_tokens."""

    def __init__(self, max_tokens: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_tokens = max_tokens

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.positions = self.add_weight(
            shape=(self.max_tokens, shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )

    def call(self, vectors: Any) -> Any:
        length = vectors.shape[1]  # None where T is known only when the step runs
        if length is not None and length > self.max_tokens:
            raise ValueError(
                f"this model reads at most max_tokens={self.max_tokens} tokens, received a text of "
                f"{length}; truncate the texts or build the model with a larger max_tokens"
            )
        return vectors + self.positions[: ops.shape(vectors)[1]]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_tokens": self.max_tokens}
