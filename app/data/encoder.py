"""Texts to token ids, in memory or in the graph of a stream: the same ids."""

import functools
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from app.data.text import Tokens, encode, fit, vectorizer


class Encoder:
    """A vocabulary in use; the arguments are those of `app.data.text.encode`."""

    def __init__(self, vocabulary: Sequence[str], tokens: Tokens, ngrams: int, max_tokens: int):
        self.vocabulary = vocabulary
        self.tokens = tokens
        self.ngrams = ngrams
        self.max_tokens = max_tokens

    def __call__(self, texts: np.ndarray) -> tuple[tf.RaggedTensor, int]:
        """Token ids of texts, object (n,) of str, and how many texts had more than `max_tokens`."""
        return encode(texts, self.vocabulary, self.tokens, self.ngrams, self.max_tokens)

    def ids_of(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Token ids, int32, of UTF-8 strings (B,), in a graph."""
        return tf.cast(fit(self._layer(texts), self.max_tokens), tf.int32)

    @functools.cached_property
    def _layer(self) -> keras.layers.TextVectorization:
        with tf.init_scope(), tf.device("CPU"):
            return vectorizer(self.vocabulary, self.tokens, self.ngrams)
