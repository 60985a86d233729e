"""The kinds of tokenizers. A new kind is a file with its class, and its name here."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from app.config import Data
from app.data.text.base import Lengths, Tokenizer
from app.data.text.vocabulary import Vocabulary
from app.data.text.wordpiece import WordPiece

__all__ = ["Lengths", "Tokenizer", "build_tokenizer", "first_listed", "tokenizer_from"]

KINDS: dict[str, type[Tokenizer]] = {
    kind: one for one in (Vocabulary, WordPiece) for kind in one.kinds
}


def build_tokenizer(wanted: Data, chunks: Iterable[np.ndarray]) -> Tokenizer:
    """The tokenizer that the config asks for, from the training texts; see `Vocabulary.build`."""
    return Vocabulary.build(wanted, chunks)


def tokenizer_from(saved: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `Tokenizer.to_json` gave."""
    return KINDS[saved["kind"]].from_json(saved)


def first_listed(saved: Mapping[str, Any]) -> int:
    """The id of the first token of its "vocabulary"."""
    return KINDS[saved["kind"]].unlisted
