"""Texts to token ids, in memory or in the graph of a stream: the same ids."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from app.data.text import Tokens, fit, parts_of, vectorizer


class Encoder:
    """A vocabulary in use; `max_tokens` is where longer texts are cut."""

    def __init__(self, vocabulary: Sequence[str], tokens: Tokens, ngrams: int, max_tokens: int):
        self.max_tokens = max_tokens
        with tf.device("CPU"):
            self._layer = vectorizer(vocabulary, tokens, ngrams)

    def __call__(self, texts: np.ndarray) -> tuple[tf.RaggedTensor, int]:
        """Token ids, int32 (n, 1 to max_tokens), of texts, object (n,) of str; and how many texts
        had more than `max_tokens`."""
        rows, texts_cut = [], 0
        with tf.device("CPU"):
            for part in parts_of(texts):
                ids = self._layer(part)
                texts_cut += int(np.count_nonzero(ids.row_lengths() > self.max_tokens))
                rows.append(tf.cast(fit(ids, self.max_tokens), tf.int32))
            return tf.concat(rows, axis=0), texts_cut

    def ids_of(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """The same ids of UTF-8 strings (B,), in a graph."""
        return tf.cast(fit(self._layer(texts), self.max_tokens), tf.int32)
