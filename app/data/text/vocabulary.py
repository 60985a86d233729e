"""The tokens that are frequent in the training texts, numbered: words, characters, runs of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from app.config import Data
from app.data.text.base import Tokenizer, parts_of
from app.data.text.splitting import SPLIT, STANDARDIZE

SHOWN_UNKNOWN = "[unknown]"


class Vocabulary(Tokenizer):
    """Words or characters, and runs of them; what is not in the vocabulary is unknown."""

    kinds = ("words", "characters")
    unlisted = 2  # ids 0, padding, and 1, an unknown token
    advice = "if there are no spaces between the words, try --tokens characters --ngrams 3"

    def __init__(self, kind: str, ngrams: int, max_tokens: int, vocabulary: Sequence[str]):
        self.kind = kind
        self.ngrams = ngrams
        self.max_tokens = max_tokens
        self.vocabulary = list(vocabulary)
        self.vocabulary_size = len(vocabulary) + self.unlisted
        self.unit = kind
        self.summary = f"{len(vocabulary):,} {kind} in the vocabulary"
        with tf.device("CPU"):
            self.tables = self._layer()

    @classmethod
    def build(cls, wanted: Data, chunks: Iterable[np.ndarray]) -> Self:
        """The one for the training texts; each chunk is an object array (n,) of str.

        Neither the order of the texts nor the chunks matter.
        """
        kind, ngrams = wanted.tokens, wanted.ngrams
        vocabulary = build_vocabulary(chunks, kind, wanted.vocabulary_size, ngrams)
        return cls(kind, ngrams, wanted.max_tokens, vocabulary)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        return cls(**saved)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "ngrams": self.ngrams,
            "max_tokens": self.max_tokens,
            "vocabulary": self.vocabulary,
        }

    def split(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Runs of tokens come behind the single ones."""
        return self.tables(texts)

    def tokens_of(self, ids: Sequence[int]) -> list[str]:
        shown = ["", SHOWN_UNKNOWN, *self.vocabulary]
        return [shown[i] for i in ids if i]

    def _layer(self) -> keras.layers.TextVectorization:
        layer = keras.layers.TextVectorization(
            standardize=STANDARDIZE[self.kind],
            split=SPLIT[self.kind],
            ngrams=self.ngrams if self.ngrams > 1 else None,
            ragged=True,
            name="vectorize",
        )
        # Keras refuses an empty vocabulary; no token is a line end.
        layer.set_vocabulary(self.vocabulary or ["\n"])
        return layer


def build_vocabulary(
    chunks: Iterable[np.ndarray], kind: str, vocabulary_size: int, ngrams: int
) -> list[str]:
    """The most frequent tokens of the training texts (and runs of up to `ngrams`), most frequent
    first: at most `vocabulary_size` with padding and unknown."""
    counts = Counter[str]()
    for chunk in chunks:
        with tf.device("CPU"):
            for texts in parts_of(chunk):
                counts.update(_count(texts, kind, ngrams))
    room = vocabulary_size - Vocabulary.unlisted
    return sorted(counts, key=lambda token: (-counts[token], token))[:room]


def _count(texts: tf.Tensor, kind: str, ngrams: int) -> dict[str, int]:
    """How often each token comes, as the layer takes them."""
    found = SPLIT[kind](STANDARDIZE[kind](texts))
    if ngrams > 1:
        found = tf.strings.ngrams(found, ngram_width=tuple(range(1, ngrams + 1)))
    unique, _, counts = tf.unique_with_counts(found.values)
    names = (token.decode() for token in unique.numpy())
    return dict(zip(names, counts.numpy().tolist(), strict=True))
