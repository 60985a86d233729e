"""Convolutions over words, each reduced to its strongest response (Kim 2014)."""

import keras
from keras import layers

from models.heads import Classes, logits_of
from models.layers import Dropout, IsToken, KeepTokens

WINDOWS_TOKENS = (3, 4, 5)


def build_textcnn(
    vocabulary_size: int,
    classes: Classes,
    *,
    max_tokens: int | None = None,
    width: int = 128,
    dropout: float = 0.5,
) -> keras.Model:
    """Windows of 3, 4 and 5 tokens over embeddings, max over time (Kim 2014, arXiv 1408.5882).

    The embeddings and each window's filters are `width` long (Kim: 300 and 100). The convolutions
    are padded, where Kim's are not, so that a text of a single token works too.
    Texts may have any length: `max_tokens` is accepted, as by every text model, but ignored.
    Token ids (B, T), 0 is padding -> float32 logits (B, classes).
    """
    tokens = keras.Input((None,), dtype="int32", name="tokens")  # (B, T)
    is_token = IsToken(name="token_mask")(tokens)  # (B, T)
    x = layers.Embedding(
        vocabulary_size,
        width,
        embeddings_initializer=keras.initializers.RandomUniform(-0.25, 0.25),  # as in Kim's code
        name="token_embedding",
    )(tokens)  # (B, T, width)
    # Zeros, as in the convolution's own padding: a window sees the same beyond the last token,
    # however many padding ids the batch added there.
    x = KeepTokens(name="kept_tokens")(x, is_token)
    strongest = []
    for window in WINDOWS_TOKENS:
        y = layers.Conv1D(
            width, window, padding="same", activation="relu", name=f"window{window}_conv"
        )(x)  # (B, T, width)
        # After a ReLU nothing is below zero, so padding set to zero never exceeds a token's value.
        y = KeepTokens(name=f"window{window}_kept")(y, is_token)
        strongest.append(layers.GlobalMaxPooling1D(name=f"window{window}_max")(y))  # (B, width)
    x = layers.Concatenate(name="windows")(strongest)  # (B, 3 * width)
    x = Dropout(dropout, name="head_dropout")(x)
    logits = logits_of(x, classes)
    return keras.Model(tokens, logits, name="textcnn")
