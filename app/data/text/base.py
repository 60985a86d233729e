"""What a tokenizer is to the rest of Lockstep, of whatever kind it is."""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf

FEW_TOKENS = 3
MANY_CHARACTERS = 30  # as hardly a pair of words has
CHARACTERS_AT_ONCE = 2**21  # each takes some hundred bytes as n-grams of characters


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long each of n texts is: in ids if it were not cut, and in characters; int (n,)."""

    tokens: np.ndarray
    characters: np.ndarray

    @classmethod
    def joined(cls, parts: Iterable["Lengths"]) -> "Lengths":
        parts = list(parts)
        tokens = [part.tokens for part in parts] or [np.zeros(0, np.int64)]
        characters = [part.characters for part in parts] or [np.zeros(0, np.int64)]
        return cls(np.concatenate(tokens), np.concatenate(characters))


class Tokenizer(abc.ABC):
    """Texts to token ids: in memory, in the graph of a stream and in an export the same ids.

    Id 0 is padding. `kinds`: the values of "kind" in the JSON of those that the class is for.
    `unlisted`: how many ids come before the first token of its `vocabulary`. `added`: how many ids
    each text gets besides its tokens. `max_tokens`: where longer texts are cut, in ids. `ngrams`:
    runs of up to this many tokens are tokens too. `vocabulary_size`: how many ids there are.
    `unit`: what its tokens are, in the plural. `summary`: what it knows, for people. `advice`: what
    to do if few tokens are found in long texts. `tables`: what a tf.Module must hold whose graph
    calls `ids_of`.
    """

    kinds: ClassVar[tuple[str, ...]]
    unlisted: ClassVar[int]
    added: ClassVar[int] = 0
    advice: ClassVar[str]
    kind: str
    max_tokens: int
    ngrams: int = 1
    vocabulary: list[str]
    vocabulary_size: int
    unit: str
    summary: str
    tables: Any

    @classmethod
    @abc.abstractmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The tokenizer that gave `saved`."""

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """All that it is, as JSON values; "kind" names the kind."""

    @abc.abstractmethod
    def split(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """All ids of UTF-8 strings (B,): ragged int (B, tokens), also of no token at all."""

    @abc.abstractmethod
    def tokens_of(self, ids: Sequence[int]) -> list[str]:
        """What ids stand for; padding is left out."""

    def fit(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """What `split` gave as the model reads it, (B, 1 to max_tokens): cut, and one unknown, id
        1, for a text without a token."""
        empty = tf.cast(ids.row_lengths() == 0, tf.int64)
        filler = tf.RaggedTensor.from_row_lengths(tf.ones(tf.reduce_sum(empty), ids.dtype), empty)
        return tf.concat([ids[:, : self.max_tokens], filler], axis=1)

    def ids_of(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Ids, int32 (B, 1 to max_tokens), of UTF-8 strings (B,), also in a graph."""
        return tf.cast(self.fit(self.split(texts)), tf.int32)

    def encode(self, texts: np.ndarray) -> tuple[tf.RaggedTensor, Lengths]:
        """The same ids of texts, object (n,) of str; and how long the texts are, uncut."""
        rows, lengths = [], []
        with tf.device("CPU"):
            for part in parts_of(texts):
                ids = self.split(part)
                lengths.append(ids.row_lengths().numpy() + self.added)
                rows.append(tf.cast(self.fit(ids), tf.int32))
            characters = np.array([len(text) for text in texts], np.int64)
            return tf.concat(rows, axis=0), Lengths(np.concatenate(lengths), characters)

    def warning(self, lengths: Lengths) -> str | None:
        """What to say if few tokens were found in long texts; runs of tokens are counted too."""
        few = sum(FEW_TOKENS - more for more in range(min(self.ngrams, FEW_TOKENS)))
        if not len(lengths.tokens) or np.median(lengths.tokens) - self.added >= few:
            return None
        characters = np.median(lengths.characters)
        if characters < MANY_CHARACTERS:
            return None
        return (
            f"half of the training texts have fewer than {FEW_TOKENS} tokens, though the median "
            f"text has {characters:,.0f} characters: {self.advice}"
        )


def parts_of(texts: np.ndarray) -> Iterator[tf.Tensor]:
    """The texts as string tensors, few enough for the memory; lone surrogates as they are."""
    part = np.cumsum([len(text) for text in texts]) // CHARACTERS_AT_ONCE
    for some in np.split(texts, np.flatnonzero(np.diff(part)) + 1):
        yield tf.constant([text.encode("utf-8", "surrogatepass") for text in some], tf.string)
