"""Texts to token ids, in memory or in the graph of a stream: the same ids."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from app.data.text.vocabulary import Tokens, fit, parts_of, vectorizer

FEW_TOKENS = 3
MANY_CHARACTERS = 30  # as hardly a pair of words has


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long each of n texts is: in tokens (0 if it has none), and in characters; int (n,)."""

    tokens: np.ndarray
    characters: np.ndarray

    @classmethod
    def joined(cls, parts: Iterable["Lengths"]) -> "Lengths":
        parts = list(parts)
        tokens = [part.tokens for part in parts] or [np.zeros(0, np.int64)]
        characters = [part.characters for part in parts] or [np.zeros(0, np.int64)]
        return cls(np.concatenate(tokens), np.concatenate(characters))

    def warning(self, ngrams: int) -> str | None:
        """What to say if few tokens were found in long texts; runs of tokens are counted too."""
        few = sum(FEW_TOKENS - more for more in range(min(ngrams, FEW_TOKENS)))
        if not len(self.tokens) or np.median(self.tokens) >= few:
            return None
        characters = np.median(self.characters)
        if characters < MANY_CHARACTERS:
            return None
        return (
            f"half of the training texts have fewer than {FEW_TOKENS} tokens, though the median "
            f"text has {characters:,.0f} characters: if there are no spaces between the words, "
            "try --tokens characters --ngrams 3"
        )


class Encoder:
    """A vocabulary in use; `max_tokens` is where longer texts are cut."""

    def __init__(self, vocabulary: Sequence[str], tokens: Tokens, ngrams: int, max_tokens: int):
        self.max_tokens = max_tokens
        with tf.device("CPU"):
            self._layer = vectorizer(vocabulary, tokens, ngrams)

    def __call__(self, texts: np.ndarray) -> tuple[tf.RaggedTensor, Lengths]:
        """Token ids, int32 (n, 1 to max_tokens), of texts, object (n,) of str; and how long the
        texts are, uncut. One without a token has the id of an unknown one."""
        rows, tokens = [], []
        with tf.device("CPU"):
            for part in parts_of(texts):
                ids = self._layer(part)
                tokens.append(ids.row_lengths().numpy())
                rows.append(tf.cast(fit(ids, self.max_tokens), tf.int32))
            characters = np.array([len(text) for text in texts], np.int64)
            return tf.concat(rows, axis=0), Lengths(np.concatenate(tokens), characters)

    def ids_of(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """The same ids of UTF-8 strings (B,), in a graph."""
        return tf.cast(fit(self._layer(texts), self.max_tokens), tf.int32)
