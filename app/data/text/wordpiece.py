"""The WordPiece tokenizer of BERT models, with the ids of HF `tokenizers`.

It differs from HF where `app.data.text.bert_text` says, and in one more thing: special and added
tokens that are spelled out in a text, such as "[SEP]", are text to it, as anything is that people
write.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import tensorflow as tf

from app.data.text.base import Tokenizer
from app.data.text.bert_text import spaced_words
from app.data.text.longest_match import LongestMatch


class WordPiece(Tokenizer):
    """A text is its first token, the pieces of its words, and its last token.

    Args:
        vocabulary: all tokens of the model by id.
        max_tokens: the most ids of a text, with the first and the last; at least 3.
        lowercase: whether letters lose their case.
        strip_accents: whether they lose their accents; None: as `lowercase`.
        split_ideographs: whether each is a word.
        clean: whether control and private characters are dropped.
        prefix: what pieces begin with that go on within a word.
        longest_word: longer ones, in characters, are unknown.
        unknown, first, last, padding: names of tokens.

    Raises:
        ValueError: one of the names is not in the vocabulary, or padding is not its first token.
    """

    kinds = ("wordpiece",)
    unlisted = 0
    added = 2
    advice = "is the vocabulary of the pretrained model for texts of this language?"

    kind = "wordpiece"
    unit = "WordPieces"
    tables = None  # its constants lie in the graph

    def __init__(
        self,
        vocabulary: Sequence[str],
        max_tokens: int,
        lowercase: bool,
        strip_accents: bool | None,
        split_ideographs: bool,
        clean: bool = True,
        prefix: str = "##",
        longest_word: int = 100,
        unknown: str = "[UNK]",
        first: str = "[CLS]",
        last: str = "[SEP]",
        padding: str = "[PAD]",
    ):
        self.vocabulary = list(vocabulary)
        self.max_tokens = max_tokens
        self.vocabulary_size = len(vocabulary)
        self.summary = f"{len(vocabulary):,} {self.unit}"
        self._names = {"unknown": unknown, "first": first, "last": last, "padding": padding}
        for role, name in self._names.items():
            if name not in self.vocabulary:
                raise ValueError(f"the vocabulary has no {role} token {name}")
        if self.vocabulary[0] != padding:
            raise ValueError(f"id 0 is {self.vocabulary[0]}, and must be the padding {padding}")
        self._rules: dict[str, Any] = {
            "lowercase": lowercase,
            "strip_accents": strip_accents,
            "split_ideographs": split_ideographs,
            "clean": clean,
            "prefix": prefix,
            "longest_word": longest_word,
        }
        strips = lowercase if strip_accents is None else strip_accents
        self._texts = {
            "clean": clean,
            "ideographs": split_ideographs,
            "accents": not strips,
            "lowercase": lowercase,
        }
        self._first, self._last = map(self.vocabulary.index, (first, last))

    @functools.cached_property
    def _ids_of_words(self) -> LongestMatch:
        """Made when the first text comes: some only ask for sizes."""
        unknown = self.vocabulary.index(self._names["unknown"])
        prefix, longest_word = self._rules["prefix"], self._rules["longest_word"]
        return LongestMatch(self.vocabulary, prefix, unknown, longest_word)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        return cls(**{key: value for key, value in saved.items() if key != "kind"})

    def to_json(self) -> dict[str, Any]:
        size = {"max_tokens": self.max_tokens, "vocabulary": self.vocabulary}
        return {"kind": self.kind, **self._rules, **self._names, **size}

    def split(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Without the first and the last token."""
        return self._ids_of_words(spaced_words(texts, **self._texts))

    def fit(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """Cut, between the first and the last token."""
        column = tf.ones([ids.nrows(), 1], ids.dtype)
        pieces = ids[:, : self.max_tokens - self.added]
        return tf.concat([column * self._first, pieces, column * self._last], axis=1)

    def tokens_of(self, ids: Sequence[int]) -> list[str]:
        return [self.vocabulary[i] for i in ids if i]
