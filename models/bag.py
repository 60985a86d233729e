"""A bag of words: the average of embeddings, then one linear layer (fastText)."""

import keras
from keras import layers

from models.heads import Classes, logits_of
from models.layers import AverageTokens, Dropout, IsToken


def build_bag(
    vocabulary_size: int,
    classes: Classes,
    *,
    max_tokens: int | None = None,
    width: int = 128,
    dropout: float = 0.0,
) -> keras.Model:
    """Averaged embeddings of length `width` (Joulin et al. 2016, arXiv 1607.01759).

    The ids may be those of words or of word n-grams: their order means nothing here.
    Texts may have any length: `max_tokens` is accepted, as by every text model, but ignored.
    Token ids (B, T), 0 is padding -> float32 logits (B, classes).
    """
    tokens = keras.Input((None,), dtype="int32", name="tokens")  # (B, T)
    is_token = IsToken(name="token_mask")(tokens)  # (B, T)
    x = layers.Embedding(vocabulary_size, width, name="token_embedding")(tokens)  # (B, T, width)
    x = AverageTokens(dtype="float32", name="average")(x, is_token)  # (B, width)
    x = Dropout(dropout, name="head_dropout")(x)
    logits = logits_of(x, classes)
    return keras.Model(tokens, logits, name="bag")
