"""Texts to tokens, by core TensorFlow ops and constants, which a SavedModel has without this code.

All texts are normalised first: Unicode's compatibility decomposition (NFKD, UAX 15) and lower
case, so that é as one or two code points, full-width and usual letters, or a ligature and its
letters are the same. The table is that of the Python which builds the layer. Two things of NFKD are
left out: several accents on one letter keep the order they are written in, and Hangul syllables
stay whole, so a syllable written as its letters (NFD) is another token than the syllable.
"""

from collections.abc import Callable

import tensorflow as tf

from app.data.text.characters import (
    CHARACTER,
    EMOJI,
    JOINER,
    SEPARATORS,
    SPACELESS,
    SPACES,
    TAG,
    ZERO_WIDTH_SPACE,
    replacements,
)

WHOLE = "\x1f"  # around what is one character; a control character, so it is in no text by then


def normalize(texts: tf.Tensor) -> tf.Tensor:
    """Strings of any shape to NFKD in lower case, without what is invisible; bytes that are not
    UTF-8 become U+FFFD."""
    return by_alphabet(texts, tf.strings.lower, _fold)


def by_alphabet(
    texts: tf.Tensor, ascii: Callable[[tf.Tensor], tf.Tensor], other: Callable
) -> tf.Tensor:
    """Most texts are ASCII, which needs neither a table nor the longer patterns."""
    rows = tf.where(~tf.strings.regex_full_match(texts, "[[:ascii:]]*"))
    return tf.tensor_scatter_nd_update(ascii(texts), rows, other(tf.gather_nd(texts, rows)))


def _fold(texts: tf.Tensor) -> tf.Tensor:
    codes, strings, position = different_characters(texts)
    changing, replaced = map(tf.constant, replacements())
    place = tf.searchsorted(changing, codes)
    changes = tf.gather(changing, place) == codes
    strings = tf.where(changes, tf.gather(replaced, place), strings)
    texts = tf.strings.reduce_join(tf.gather(strings, position), axis=-1)
    # A zero-width space is a space where there are no others. Elsewhere it is nothing, and so is
    # a joiner or a tag outside of an emoji.
    texts = tf.strings.regex_replace(
        texts, rf"({CHARACTER}){ZERO_WIDTH_SPACE}+|{ZERO_WIDTH_SPACE}+([{SPACELESS}])", r"\1 \2"
    )
    return tf.strings.regex_replace(texts, rf"({EMOJI})|[{ZERO_WIDTH_SPACE}{JOINER}{TAG}]", r"\1")


def different_characters(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.RaggedTensor]:
    """The different characters as int32 codes and as strings, and which ones each text has.

    A batch has few different characters: this takes a sixth of the time of unicode_split.
    """
    codes = tf.strings.unicode_decode(texts, "UTF-8")  # U+FFFD for bytes that are not UTF-8
    unique, position = tf.unique(codes.values)
    strings = tf.strings.unicode_encode(unique[:, None], "UTF-8")
    return unique, strings, codes.with_values(position)


def split_characters(texts: tf.Tensor) -> tf.RaggedTensor:
    """Strings (B,) to ragged strings (B, characters); what is between two `WHOLE` is one."""
    codes, strings, position = different_characters(texts)
    characters, marks = tf.gather(strings, position), codes == ord(WHOLE)
    return tf.cond(
        tf.reduce_any(marks),
        lambda: _joined(characters, tf.gather(marks, position.values)),
        lambda: characters,
    )


def _joined(characters: tf.RaggedTensor, marks: tf.Tensor) -> tf.RaggedTensor:
    """Ragged strings (B, n) without the marks, bool (all n,), and with one string for each pair's
    content."""
    inside = tf.cumsum(tf.cast(marks, tf.int32)) % 2 == 1  # every text has an even number
    behind_mark = tf.concat([[False], marks], axis=0)[:-1]
    begins = ~marks & (~inside | behind_mark)
    token = tf.cumsum(tf.cast(begins, tf.int32)) - 1
    tokens = tf.strings.unsorted_segment_join(
        characters.values[~marks], token[~marks], tf.reduce_sum(tf.cast(begins, tf.int32))
    )
    lengths = tf.reduce_sum(characters.with_values(tf.cast(begins, tf.int64)), axis=1)
    return tf.RaggedTensor.from_row_lengths(tokens, lengths)


def standardize_words(texts: tf.Tensor) -> tf.Tensor:
    """Normalised, with spaces for spaces, punctuation and symbols, and around emoji and the
    characters of scripts without spaces (as in BERT)."""

    def other(texts: tf.Tensor) -> tf.Tensor:
        return tf.strings.regex_replace(_fold(texts), f"{EMOJI}|{CHARACTER}", r" \0 ")

    # Two patterns without a group take a quarter of the time of one with it.
    texts = by_alphabet(texts, tf.strings.lower, other)
    return tf.strings.regex_replace(texts, SEPARATORS, " ")


def standardize_characters(texts: tf.Tensor) -> tf.Tensor:
    """Normalised, with one space for any run of spaces, none at the ends, and emoji marked."""

    def spaced(texts: tf.Tensor) -> tf.Tensor:
        return tf.strings.strip(tf.strings.regex_replace(texts, SPACES, " "))

    def other(texts: tf.Tensor) -> tf.Tensor:
        return tf.strings.regex_replace(spaced(_fold(texts)), EMOJI, rf"{WHOLE}\0{WHOLE}")

    return by_alphabet(texts, lambda some: spaced(tf.strings.lower(some)), other)


# By kind of token: what is done to texts, and what splits them then.
STANDARDIZE = {"words": standardize_words, "characters": standardize_characters}
SPLIT = {"words": tf.strings.split, "characters": split_characters}
