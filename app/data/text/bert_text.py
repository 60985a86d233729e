"""What BERT does to a text before its words are looked up, by core TensorFlow ops and constants.

The rules of HF `tokenizers` (BertNormalizer, then BertPreTokenizer), code point by code point: drop
control characters, put spaces around ideographs, take accents off, lower case, split at white space
and make each punctuation mark a word. Compared with tokenizers 0.23.3 for every code point, this is
equal but for:

- U+1C89, A7CB, A7CC, A7CE, A7D2, A7D4, A7DA, A7DC, 10D50-10D65 and 16EA0-16EB8, letters which are
  newer than the Unicode 14 of Python 3.11: they keep their case.
- where accents are taken off, several marks on one letter that stay: they keep the order they are
  written in, where NFD has an order of its own. Such are spacing marks (category Mc), as U+302E,
  1B44 or 1D165, and the marks in `NEWER`.
"""

import functools
import string
import sys
import unicodedata

import numpy as np
import tensorflow as tf

from app.data.text.splitting import by_alphabet, different_characters

CHANGING = (range(0x30000), range(0xE0000, 0xE0200))  # other code points stay, or are private
IDEOGRAPHS = (
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF)),
    *((0x2A700, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F)),  # the gap is HF's
)
PRIVATE = ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
_ASCII_CONTROLS = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F]"
_ASCII_PUNCTUATION = r"[!-/:-@\[-`{-~]"


def _codes(ranges: str) -> frozenset[int]:
    ends = [[int(end, 16) for end in one.split("-")] for one in ranges.split()]
    return frozenset(code for one in ends for code in range(one[0], one[-1] + 1))


# HF knows the categories of Unicode 8. Marks, punctuation and format characters that came later, up
# to Unicode 18, are like letters to it; the ranges also hold real letters between them.
NEWER = _codes(
    "5C8-5C9 61D 7FD 890-8E2 9FD-9FE A76 AFA-AFF B53-B55 C04-C3C C77 C84 D00 D3B-D3C D81 EBA ECE "
    "180F-1886 1ABF-1AF0 1B4E-1B4F 1B7D-1B7F 1DF6-1DFB 2E43-2E63 A82C A8C5 A8FF A9BD 105C9-105E4 "
    "10D24-10D27 10D69-10F89 11070-11074 110C2-110CD 111CF 1123E-11241 1133B 11383-1145E "
    "11660-1166C 116B9 1182F-1183B 11938-11FFF 12FF1-1612F 16D68-16D6F 16E97-16E9A 16F4F "
    "16FE2-16FE4 1CF00-1D128 1D25B-1D25C 1E000-1E6F5 1E944-1E95F"
)
# Those that Unicode has put into another category since.
WERE_MARKS = _codes("1734 1171E")
WERE_PUNCTUATION = _codes("166D 111C9")


def spaced_words(
    texts: tf.Tensor, *, clean: bool, ideographs: bool, accents: bool, lowercase: bool
) -> tf.Tensor:
    """UTF-8 strings (B,) to strings whose words, and punctuation marks, are apart by spaces.

    Args:
        texts: bytes that are not UTF-8 count as U+FFFD.
        clean: drop control, format and private characters, and U+FFFD.
        ideographs: make each a word.
        accents: keep them.
        lowercase: of every letter by itself.
    """

    def ascii(texts: tf.Tensor) -> tf.Tensor:
        texts = tf.strings.regex_replace(texts, _ASCII_CONTROLS, "") if clean else texts
        return tf.strings.lower(texts) if lowercase else texts

    def other(texts: tf.Tensor) -> tf.Tensor:
        codes, strings, position = different_characters(texts)
        changing, becoming = map(tf.constant, replacements(clean, accents, lowercase))
        place = tf.searchsorted(changing, codes)
        changes = tf.gather(changing, place) == codes
        strings = tf.where(changes, tf.gather(becoming, place), strings)
        if clean:
            strings = tf.where(_within(codes, PRIVATE), "", strings)
        if ideographs:
            apart = tf.strings.join([" ", strings, " "])
            strings = tf.where(_within(codes, IDEOGRAPHS), apart, strings)
        return tf.strings.reduce_join(tf.gather(strings, position), axis=-1)

    return tf.strings.regex_replace(by_alphabet(texts, ascii, other), _ASCII_PUNCTUATION, r" \0 ")


def _within(codes: tf.Tensor, ranges: tuple[tuple[int, int], ...]) -> tf.Tensor:
    first, last = np.array(ranges, np.int32).T
    return tf.reduce_any((codes[:, None] >= first) & (codes[:, None] <= last), axis=1)


@functools.cache
def replacements(clean: bool, accents: bool, lowercase: bool) -> tuple[np.ndarray, np.ndarray]:
    """Code points, int32 ascending, and what they become, where it is another string.

    White space becomes a space, and punctuation gets spaces around it, but for ASCII's, which one
    pattern finds for all. Neither ideographs nor private characters are here, being many. The last
    code point does not exist, so that a search always ends at a place of the table.
    """
    private = {code for first, last in PRIVATE for code in range(first, last + 1)}
    codes = [code for some in CHANGING for code in some if code not in private]
    table = {code: _becomes(code, clean, accents, lowercase) for code in codes}
    changing = [code for code, text in table.items() if text != chr(code)]
    texts = [table[code] for code in changing]
    return np.array([*changing, sys.maxunicode + 1], np.int32), np.array([*texts, ""], object)


def _becomes(code: int, clean: bool, accents: bool, lowercase: bool) -> str:
    letter = chr(code)
    category = unicodedata.category(letter)
    if code in NEWER or category in ("Cn", "Cs"):
        return letter
    if letter in "\t\n\r" or category[0] == "Z":
        return " "
    if clean and (category in ("Cc", "Cf") or letter == "\ufffd"):
        return ""
    if letter in "\v\f\x85":
        return " "
    if not accents:
        parts = unicodedata.normalize("NFD", letter)
        letter = "".join(part for part in parts if not _is_mark(part))
    if lowercase:
        letter = "".join(part.lower() for part in letter)
    return "".join(f" {part} " if _is_punctuation(part) else part for part in letter)


def _is_mark(letter: str) -> bool:
    if ord(letter) in WERE_PUNCTUATION:
        return False
    return unicodedata.category(letter) == "Mn" or ord(letter) in WERE_MARKS


def _is_punctuation(letter: str) -> bool:
    if letter in string.punctuation:
        return False
    return unicodedata.category(letter)[0] == "P" or ord(letter) in WERE_PUNCTUATION
