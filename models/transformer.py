"""A small pre-norm transformer encoder (Vaswani et al. 2017)."""

from typing import Any

import keras
from keras import layers

from models.heads import Classes, logits_of
from models.layers import AddPositions, AverageTokens, Dropout, IsToken

BLOCKS = 2
HEADS = 4


def build_transformer(
    vocabulary_size: int,
    classes: Classes,
    *,
    max_tokens: int,
    width: int = 128,
    dropout: float = 0.1,
) -> keras.Model:
    """Two encoder blocks of 4 heads over token and learned position embeddings.

    Attention is that of arXiv 1706.03762. Normalisation comes before each sublayer (pre-norm,
    arXiv 2002.04745), so it trains without warming up the learning rate.
    Token ids (B, T), 0 is padding, T <= max_tokens -> float32 logits (B, classes).

    Raises:
        ValueError: for a width not divisible by the number of heads; and, when the model is
            called, for texts longer than `max_tokens`.
    """
    if width % HEADS:
        raise ValueError(f"the transformer's width must be a multiple of {HEADS}, received {width}")
    tokens = keras.Input((None,), dtype="int32", name="tokens")  # (B, T)
    is_token = IsToken(name="token_mask")(tokens)  # (B, T)
    x = layers.Embedding(
        vocabulary_size,
        width,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),  # as for the positions
        name="token_embedding",
    )(tokens)
    x = AddPositions(max_tokens, name="position_embedding")(x)  # (B, T, width)
    x = Dropout(dropout, name="embedding_dropout")(x)
    for block in range(1, BLOCKS + 1):
        x = _attend(x, is_token, width, dropout, name=f"block{block}_attention")
        x = _transform(x, width, dropout, name=f"block{block}_mlp")
    x = layers.LayerNormalization(epsilon=1e-5, name="final_norm")(x)
    x = AverageTokens(dtype="float32", name="average")(x, is_token)  # (B, width)
    logits = logits_of(x, classes)
    return keras.Model(tokens, logits, name="transformer")


def _attend(x: Any, is_token: Any, width: int, dropout: float, name: str) -> Any:
    """Add what each token reads from all but padding: (B, T, C) -> (B, T, C).

    Dropout is only on the output: dropout of the attention weights, inside Keras's layer, has a
    random state whose path differs from process to process (see `models.layers.Dropout`).
    """
    y = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm")(x)
    y = layers.MultiHeadAttention(HEADS, width // HEADS, name=name)(y, y, value_mask=is_token)
    y = Dropout(dropout, name=f"{name}_dropout")(y)
    return layers.Add(name=f"{name}_add")([x, y])


def _transform(x: Any, width: int, dropout: float, name: str) -> Any:
    """Add what a two-layer network makes of each token alone: (B, T, C) -> (B, T, C)."""
    y = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm")(x)
    y = layers.Dense(4 * width, activation="gelu", name=f"{name}_expand")(y)  # (B, T, 4 * C)
    y = layers.Dense(width, name=f"{name}_project")(y)
    y = Dropout(dropout, name=f"{name}_dropout")(y)
    return layers.Add(name=f"{name}_add")([x, y])
