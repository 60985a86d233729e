"""The few layers that the models need and Keras lacks."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


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
