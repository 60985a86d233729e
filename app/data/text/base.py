"""What a tokenizer is to the rest of Lockstep, of whatever kind it is."""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf

from app.config import Data

FEW_TOKENS = 3
MANY_CHARACTERS = 30  # as hardly a pair of words has
CHARACTERS_AT_ONCE = 2**21  # each takes some hundred bytes as n-grams of characters


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


class Tokenizer(abc.ABC):
    """Texts to token ids: in memory, in the graph of a stream and in an export the same ids.

    Id 0 is padding, id 1 an unknown token. `kinds`: the values of the config key `tokens` that it
    is for. `max_tokens`: where longer texts are cut. `ngrams`: runs of up to this many tokens
    are tokens too. `vocabulary_size`: how many ids there are. `summary`: what it knows, for people.
    `tables`: what a tf.Module must hold whose graph calls `ids_of`.
    """

    kinds: ClassVar[tuple[str, ...]]
    kind: str
    max_tokens: int
    ngrams: int = 1
    vocabulary_size: int
    summary: str
    tables: Any

    @classmethod
    @abc.abstractmethod
    def build(cls, wanted: Data, chunks: Iterable[np.ndarray]) -> Self:
        """A tokenizer for the training texts; each chunk is an object array (n,) of str.

        Neither the order of the texts nor the chunks matter. Raises UserError if the texts do not
        allow what is wanted.
        """

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

    def ids_of(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Ids, int32 (B, 1 to max_tokens), of UTF-8 strings (B,), also in a graph."""
        return tf.cast(fit(self.split(texts), self.max_tokens), tf.int32)

    def encode(self, texts: np.ndarray) -> tuple[tf.RaggedTensor, Lengths]:
        """The same ids of texts, object (n,) of str; and how long the texts are, uncut."""
        rows, tokens = [], []
        with tf.device("CPU"):
            for part in parts_of(texts):
                ids = self.split(part)
                tokens.append(ids.row_lengths().numpy())
                rows.append(tf.cast(fit(ids, self.max_tokens), tf.int32))
            characters = np.array([len(text) for text in texts], np.int64)
            return tf.concat(rows, axis=0), Lengths(np.concatenate(tokens), characters)


def parts_of(texts: np.ndarray) -> Iterator[tf.Tensor]:
    """The texts as string tensors, few enough for the memory; lone surrogates as they are."""
    part = np.cumsum([len(text) for text in texts]) // CHARACTERS_AT_ONCE
    for some in np.split(texts, np.flatnonzero(np.diff(part)) + 1):
        yield tf.constant([text.encode("utf-8", "surrogatepass") for text in some], tf.string)


def fit(ids: tf.RaggedTensor, max_tokens: int) -> tf.RaggedTensor:
    """Ids (B, tokens) cut to (B, 1 to max_tokens): a text without a token becomes one unknown."""
    empty = tf.cast(ids.row_lengths() == 0, tf.int64)
    filler = tf.RaggedTensor.from_row_lengths(tf.ones(tf.reduce_sum(empty), ids.dtype), empty)
    return tf.concat([ids[:, :max_tokens], filler], axis=1)
