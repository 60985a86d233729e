"""Texts to token ids: one Keras layer that also goes into the exported model.

Ids: 0 is padding, 1 an unknown token, then the vocabulary by falling frequency.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

# Punctuation, symbols, and Unicode's other spaces (no-break, ideographic, ...).
SEPARATORS = r"[\p{P}\p{S}\p{Z}]"


@keras.saving.register_keras_serializable(package="lockstep")
def standardize(texts: tf.Tensor) -> tf.Tensor:
    """Lower-case (all of Unicode, unlike Keras' own) and put spaces for punctuation."""
    lowered = tf.strings.lower(texts, encoding="utf-8")
    return tf.strings.regex_replace(lowered, SEPARATORS, " ")


def _vectorizer(vocabulary_size: int, ngrams: int) -> keras.layers.TextVectorization:
    return keras.layers.TextVectorization(
        max_tokens=vocabulary_size,
        standardize=standardize,
        ngrams=ngrams if ngrams > 1 else None,
        ragged=True,
        name="vectorize",
    )


def build_vocabulary(texts: np.ndarray, vocabulary_size: int, ngrams: int) -> list[str]:
    """The most frequent tokens of the texts (object (n,) of str), most frequent first."""
    layer = _vectorizer(vocabulary_size, ngrams)
    layer.adapt(tf.constant(texts, dtype=tf.string), batch_size=1024)
    return layer.get_vocabulary(include_special_tokens=False)


def encode(
    texts: np.ndarray, vocabulary: Sequence[str], ngrams: int, max_tokens: int
) -> tf.RaggedTensor:
    """Token ids, int32 (n, up to max_tokens); a text without a token becomes one unknown."""
    layer = _vectorizer(max(3, len(vocabulary) + 2), ngrams)
    # Keras refuses an empty vocabulary; no text can hold this token, a space.
    layer.set_vocabulary(list(vocabulary) or [" "])
    rows = [
        tf.cast(layer(tf.constant(part, dtype=tf.string)), tf.int32)[:, :max_tokens]
        for part in np.array_split(texts, max(1, len(texts) // 4096))
    ]
    ids = tf.concat(rows, axis=0)
    empty = tf.cast(ids.row_lengths() == 0, tf.int64)
    filler = tf.RaggedTensor.from_row_lengths(tf.ones(tf.reduce_sum(empty), tf.int32), empty)
    return tf.concat([ids, filler], axis=1)
