"""The encoder of BERT (Devlin et al. 2018, arXiv 1810.04805), for weights that others have trained.

Also that of MiniLM, BGE, E5, GTE and DistilBERT, which have the same layout. Padding costs nothing:
all that is done to each token alone is done to the tokens of a batch in one row, (N, C), without
padding. Only attention, in which the tokens of a text meet, sees the batch as (B, T).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import layers

from models.heads import Classes, logits_of
from models.layers import Dropout

# By the names that they have in a config.json. "gelu" is exact there, and not its tanh.
ACTIVATIONS = {
    "gelu": lambda x: keras.activations.gelu(x, approximate=False),
    "gelu_new": lambda x: keras.activations.gelu(x, approximate=True),
    "relu": keras.activations.relu,
}
POOLING = ("mean", "first")


class BertSizes(NamedTuple):
    """The shape of an encoder.

    `tokens`: rows of the table of token vectors; `width`: C, of a token's vector; `hidden`: of the
    layer between; `positions`: the longest text; `kinds`: of token types (segments), 0 if there are
    none; `epsilon`: of the normalisations.
    """

    tokens: int
    width: int
    blocks: int
    heads: int
    hidden: int
    positions: int
    kinds: int
    activation: str
    epsilon: float


def build_bert(
    vocabulary_size: int,
    classes: Classes,
    *,
    max_tokens: int,
    pretrained: Mapping[str, Any],
    dropout: float = 0.1,
) -> keras.Model:
    """The encoder, its tokens pooled, and a linear layer.

    Token ids (B, T), 0 is padding, T <= max_tokens -> float32 logits (B, classes).

    Args:
        vocabulary_size, max_tokens: of its tokenizer.
        classes: the number of classes.
        pretrained: the fields of `BertSizes`, and "pooling": the "mean" of a text's tokens, or the
            "first" one, [CLS]. Whoever calls this loads the weights.
        dropout: rate, in the encoder (as when it was trained) and before the last layer.

    Raises:
        ValueError: for an activation or pooling that is not known, or sizes that do not fit.
    """
    pooling = pretrained["pooling"]
    sizes = BertSizes(**{name: pretrained[name] for name in BertSizes._fields})
    if sizes.activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {sizes.activation!r}: {', '.join(ACTIVATIONS)}")
    if pooling not in POOLING:
        raise ValueError(f"unknown pooling {pooling!r}: {', '.join(POOLING)}")
    if sizes.width % sizes.heads:
        raise ValueError(f"width {sizes.width} is no multiple of {sizes.heads} heads")
    if vocabulary_size > sizes.tokens:
        raise ValueError(f"it has {sizes.tokens} tokens, the vocabulary {vocabulary_size}")
    if max_tokens > sizes.positions:
        raise ValueError(f"it reads at most {sizes.positions} tokens, max_tokens is {max_tokens}")
    ids = keras.Input((None,), dtype="int32", name="tokens")  # (B, T)
    places = Places(name="places")(ids)  # (N, 2)
    x = Embeddings(sizes, dropout, name="embeddings")(ids, places)  # (N, C)
    for number in range(1, sizes.blocks + 1):
        x = Block(sizes, dropout, name=f"block{number:02d}")(x, ids, places)
    x = Pool(pooling, dtype="float32", name="pool")(x, ids, places)  # (B, C)
    x = Dropout(dropout, dtype="float32", name="head_dropout")(x)
    logits = logits_of(x, classes, kernel_initializer=keras.initializers.RandomNormal(stddev=0.02))
    return keras.Model(ids, logits, name="bert")


@keras.saving.register_keras_serializable(package="lockstep")
class Places(layers.Layer):
    """Where the tokens are: ids (B, T) -> int32 (N, 2), the text and the position of each."""

    def call(self, ids: Any) -> Any:
        return tf.cast(tf.where(tf.not_equal(ids, 0)), tf.int32)


@keras.saving.register_keras_serializable(package="lockstep")
class Embeddings(layers.Layer):
    """The vector of each token, of its position and of the first token type, summed and normalised:
    ids (B, T), places (N, 2) -> (N, C)."""

    def __init__(self, sizes: Sequence[Any], dropout: float, **options: Any):
        super().__init__(**options)
        self._config = {"sizes": list(sizes), "dropout": dropout}
        sizes = BertSizes(*sizes)
        self.token = layers.Embedding(sizes.tokens, sizes.width, name="token")
        self.position = layers.Embedding(sizes.positions, sizes.width, name="position")
        self.kind = layers.Embedding(sizes.kinds, sizes.width, name="kind") if sizes.kinds else None
        self.norm = layers.LayerNormalization(epsilon=sizes.epsilon, name="norm")
        self.dropout = Dropout(dropout, name="embeddings_dropout")

    def build(self, *shapes: Any) -> None:
        for part in filter(None, (self.token, self.position, self.kind)):
            part.build(None)
        self.norm.build((None, self.token.output_dim))

    def call(self, ids: Any, places: Any, training: bool | None = None) -> Any:
        x = self.token(tf.gather_nd(ids, places)) + self.position(places[:, 1])
        if self.kind is not None:
            x += self.kind(tf.zeros((1,), tf.int32))
        return self.dropout(self.norm(x), training=training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._config}


@keras.saving.register_keras_serializable(package="lockstep")
class Block(layers.Layer):
    """Attention, then two layers for each token alone, normalised after each (post-norm):
    tokens (N, C), ids (B, T), places (N, 2) -> (N, C)."""

    def __init__(self, sizes: Sequence[Any], dropout: float, **options: Any):
        super().__init__(**options)
        self._config = {"sizes": list(sizes), "dropout": dropout}
        sizes = BertSizes(*sizes)
        width, epsilon = sizes.width, sizes.epsilon
        self.heads = sizes.heads
        self.width = width
        self.query, self.key, self.value = (
            layers.Dense(width, name=name) for name in ("query", "key", "value")
        )
        self.attended = layers.Dense(width, name="attended")
        self.attended_norm = layers.LayerNormalization(epsilon=epsilon, name="attended_norm")
        self.expand = layers.Dense(sizes.hidden, name="expand")
        self.activation = ACTIVATIONS[sizes.activation]
        self.project = layers.Dense(width, name="project")
        self.project_norm = layers.LayerNormalization(epsilon=epsilon, name="project_norm")
        self.weights_dropout, self.attended_dropout, self.project_dropout = (
            Dropout(dropout, name=f"{self.name}_{part}_dropout")
            for part in ("weights", "attended", "project")
        )

    def build(self, *shapes: Any) -> None:
        for part in (self.query, self.key, self.value, self.attended, self.expand):
            part.build((None, self.width))
        self.project.build((None, self.expand.units))
        for norm in (self.attended_norm, self.project_norm):
            norm.build((None, self.width))

    def call(self, x: Any, ids: Any, places: Any, training: bool | None = None) -> Any:
        y = self.attended(self._attend(x, ids, places, training))
        x = self.attended_norm(x + self.attended_dropout(y, training=training))
        y = self.project(self.activation(self.expand(x)))
        return self.project_norm(x + self.project_dropout(y, training=training))

    def _attend(self, x: Any, ids: Any, places: Any, training: bool | None) -> Any:
        """What each token reads from those of its text, all heads side by side: (N, C)."""
        texts, length = tf.unstack(tf.shape(ids))
        dim = self.width // self.heads

        def spread(tokens: Any) -> Any:  # (N, C) -> (B, heads, T, C / heads)
            rows = tf.scatter_nd(places, tokens, [texts, length, self.width])
            return tf.transpose(tf.reshape(rows, [texts, length, self.heads, dim]), [0, 2, 1, 3])

        query, key, value = spread(self.query(x)), spread(self.key(x)), spread(self.value(x))
        scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32) / dim**0.5
        is_token = tf.not_equal(ids, 0)[:, None, None, :]
        scores = tf.where(is_token, scores, scores.dtype.min)  # (B, heads, T, T)
        weights = tf.cast(tf.nn.softmax(scores), value.dtype)
        read = tf.matmul(self.weights_dropout(weights, training=training), value)
        rows = tf.reshape(tf.transpose(read, [0, 2, 1, 3]), [texts, length, self.width])
        return tf.gather_nd(rows, places)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._config}


@keras.saving.register_keras_serializable(package="lockstep")
class Pool(layers.Layer):
    """One vector for each text, zeros if it has no token: tokens (N, C), ids (B, T), places (N, 2)
    -> (B, C)."""

    def __init__(self, pooling: str, **options: Any):
        super().__init__(**options)
        self.pooling = pooling

    def call(self, x: Any, ids: Any, places: Any) -> Any:
        text, position = tf.unstack(places, axis=1)
        texts = tf.shape(ids)[0]
        if self.pooling == "first":
            is_first = tf.equal(position, 0)
            return tf.math.unsorted_segment_sum(x[is_first], text[is_first], texts)
        tokens = tf.math.unsorted_segment_sum(tf.ones_like(text, x.dtype), text, texts)
        total = tf.math.unsorted_segment_sum(x, text, texts)
        return total / tf.maximum(tokens, 1)[:, None]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pooling": self.pooling}
