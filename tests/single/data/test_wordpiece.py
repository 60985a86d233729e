"""BERT's WordPiece: its rules one by one, and all of them against a plain loop."""

import json
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from app.data.text.bert_text import NEWER, WERE_MARKS, WERE_PUNCTUATION, spaced_words
from app.data.text.tokenizer import Lengths, tokenizer_from
from app.data.text.wordpiece import WordPiece

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
PIECES = ["un", "##aff", "##able", "##a", "##b", "##ble", "a", "ab", "hello", "world", "élan"]
PIECES += ["elan", "Elan", "!", ".", "…", "[", "]", "##s", "sep", "中", "国", "i", "##i", "σ"]
VOCABULARY = [*SPECIAL, *PIECES]
FIRST, LAST = "[CLS]", "[SEP]"


def array(*texts: str) -> np.ndarray:
    return np.array([*texts, None], dtype=object)[:-1]


def wordpiece(vocabulary: Sequence[str] = VOCABULARY, **keys: Any) -> WordPiece:
    rules: dict[str, Any] = {"lowercase": True, "strip_accents": None, "split_ideographs": True}
    return WordPiece(vocabulary, **{"max_tokens": 12, **rules, **keys})


def tokens_of(*texts: str, **keys: Any) -> list[list[str]]:
    tokenizer = wordpiece(**keys)
    return [tokenizer.tokens_of(row) for row in tokenizer.encode(array(*texts))[0].to_list()]


def pieces_of(text: str, **keys: Any) -> str:
    """Those of one text, between the first and the last token, as a readable string."""
    (tokens,) = tokens_of(text, **keys)
    assert (tokens[0], tokens[-1]) == (FIRST, LAST)
    return " ".join(tokens[1:-1])


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("hello world", "hello world"),
        ("unaffable", "un ##aff ##able"),  # the longest, not ##a ...
        ("abab", "ab ##a ##b"),
        ("una", "un ##a"),
        ("affable", "[UNK]"),  # "##aff" begins no word
        ("unaffablez hello", "[UNK] hello"),  # one unknown for the whole word
        ("zun", "[UNK]"),
        ("##a", "[UNK] [UNK] a"),
        ("Hello,\tWORLD!\n", "hello [UNK] world !"),
        ("hello...", "hello . . ."),
        ("a…a", "a … a"),
        ("Élan e\u0301lan", "elan elan"),
        ("he\u200bllo\x00 wo\x07r\ufffdld", "hello world"),
        ("hello\u00a0world\u2028hello\u3000world", "hello world hello world"),
        ("中国", "中 国"),
        ("a中b", "a 中 [UNK]"),
        ("İ", "i"),
        ("ς ΣΣ", "[UNK] [UNK]"),  # each letter by itself: sigma has one lower case
        ("[SEP]", "[ sep ]"),
        ("", ""),
        (" \t\x00", ""),
    ],
)
def test_a_text_becomes_its_pieces(text: str, pieces: str) -> None:
    assert pieces_of(text) == pieces


@pytest.mark.parametrize(
    ("text", "keys", "pieces"),
    [
        ("Élan", {"strip_accents": False}, "élan"),
        ("Élan", {"lowercase": False}, "[UNK]"),
        ("Élan", {"lowercase": False, "strip_accents": True}, "Elan"),
        ("Hello hello", {"lowercase": False}, "[UNK] hello"),
        ("中国", {"split_ideographs": False}, "[UNK]"),
        ("a\x07b a\x0bb", {"clean": False}, "[UNK] a [UNK]"),
        ("a\x07b a\x0bb", {"clean": True}, "ab ab"),
        ("unaffable", {"longest_word": 9}, "un ##aff ##able"),
        ("unaffable a", {"longest_word": 8}, "[UNK] a"),
        ("unaffable", {"unknown": "!", "longest_word": 8}, "!"),
        ("ab", {"prefix": "[", "vocabulary": [*SPECIAL, "a", "[b"]}, "a [b"),
    ],
)
def test_each_rule_can_be_another(text: str, keys: dict[str, Any], pieces: str) -> None:
    assert pieces_of(text, **keys) == pieces


def test_a_text_is_cut_between_its_first_and_its_last_token() -> None:
    ids, lengths = wordpiece(max_tokens=4).encode(array("a a a hello", "a a", "", "a"))
    a = VOCABULARY.index("a")
    assert ids.to_list() == [[2, a, a, 3], [2, a, a, 3], [2, 3], [2, a, 3]]
    assert ids.dtype == tf.int32
    assert lengths.tokens.tolist() == [6, 4, 2, 3]
    assert lengths.characters.tolist() == [11, 3, 0, 1]


def test_no_texts_have_no_ids() -> None:
    ids, lengths = wordpiece().encode(array())
    assert ids.to_list() == [] == lengths.tokens.tolist()
    assert wordpiece().ids_of(tf.constant([], tf.string)).to_list() == []


def test_very_long_words_are_unknown_and_long_texts_are_cut() -> None:
    longest = "a" * 100
    assert pieces_of("a" * 101) == pieces_of("a" * 500_000) == "[UNK]"
    assert pieces_of(longest, max_tokens=200) == "a" + " ##a" * 99
    assert len(tokens_of("hello " * 100_000)[0]) == 12


def test_bytes_that_are_not_utf_8_are_dropped() -> None:
    texts = tf.constant([b"\xffhello\xc3", b"\xed\xa0\x80", b"a\xe4\xb8 b"])
    tokenizer = wordpiece()
    found = [tokenizer.tokens_of(row) for row in tokenizer.ids_of(texts).to_list()]
    assert found == [[FIRST, "hello", LAST], [FIRST, LAST], [FIRST, "a", "[UNK]", LAST]]
    assert pieces_of("\ud800hello \udfff") == "hello"  # lone surrogates
    assert pieces_of("a\ud800 a", clean=False) == "[UNK] a"


def reference(text: str, vocabulary: Sequence[str]) -> tuple[list[str], list[int]]:
    """Words and ids, as the code of BERT has it (lower case, without accents)."""
    out = ""
    for letter in text:
        kind = unicodedata.category(letter)
        if letter in "\t\n\r" or kind[0] == "Z":
            out += " "
        elif kind in ("Cc", "Cf", "Co") or letter == "\ufffd":
            continue
        elif unicodedata.name(letter, "").startswith("CJK ") and "IDEOGRAPH" in unicodedata.name(
            letter
        ):
            out += f" {letter} "
        else:
            out += letter
    out = unicodedata.normalize("NFD", out)
    out = "".join(letter.lower() for letter in out if unicodedata.category(letter) != "Mn")
    words: list[str] = []
    for part in out.split(" "):
        word = ""
        for letter in part:
            ascii_sign = letter.isascii() and letter.isprintable() and not letter.isalnum()
            if ascii_sign or unicodedata.category(letter)[0] == "P":
                words += [word, letter]
                word = ""
            else:
                word += letter
        words.append(word)
    words = [word for word in words if word]
    number = {token: id for id, token in enumerate(vocabulary)}
    return words, [id for word in words for id in greedy(word, number)]


def greedy(word: str, number: dict[str, int]) -> list[int]:
    if len(word) > 100:
        return [1]
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in number:
                break
        else:
            return [1]
        found.append(number[piece])
        start = end
    return found


def is_usual(letter: str) -> bool:
    """Not one that HF, whose ids these are, sees otherwise than the Unicode of this Python."""
    ordered = unicodedata.combining(letter) and unicodedata.category(letter) != "Mn"
    newest = ord(letter) >= 0x2CEB0 and unicodedata.category(letter) == "Lo"
    gap = 0x2B820 <= ord(letter) <= 0x2B91F
    return not (ordered or newest or gap) and ord(letter) not in (
        NEWER | WERE_MARKS | WERE_PUNCTUATION
    )


ANY = st.characters(exclude_categories=["Cs"]).filter(is_usual)
SMALL = st.sampled_from(
    [*"aabb  AiIéÉ!.…中国σΣ\t", "\u0301", "un", "aff", "able", "ble", "a" * 101]
)
MANY = [*VOCABULARY, *map(chr, range(0xA1, 0x2FF)), *("##" + chr(i) for i in range(0xA1, 0x2FF))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(SMALL | ANY | st.characters(max_codepoint=0x2FF), max_size=20)))
def test_texts_become_what_a_plain_loop_gives(parts: list[list[str]]) -> None:
    texts = ["".join(letter for letter in some if is_usual(letter[:1])) for some in parts]
    expected = [reference(text, MANY) for text in texts]
    data = tf.constant([text.encode() for text in texts], tf.string)
    spaced = spaced_words(data, clean=True, ideographs=True, accents=False, lowercase=True)
    assert [
        text.decode().split(" ")
        for text in tf.strings.reduce_join(tf.strings.split(spaced), axis=1, separator=" ").numpy()
    ] == [words or [""] for words, _ in expected]
    assert MANY_PIECES.split(data).to_list() == [ids for _, ids in expected]


MANY_PIECES = wordpiece(MANY)


LOAD_AND_RUN = """
import json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
texts = tf.constant([bytes.fromhex(text) for text in sys.argv[2:]], tf.string)
print(json.dumps([model.serve(texts[:n]).numpy().tolist() for n in (0, len(texts))]))
assert not {"app", "tokenizers", "tensorflow_text"} & set(sys.modules)
"""


def test_an_exported_tokenizer_gives_the_same_ids_with_tensorflow_alone(tmp_path: Path) -> None:
    texts = array(
        "Unaffable, HELLO!", "", "中国 Élan e\u0301lan…", "a" * 101, "\ud800 a\x00b", "hello " * 20
    )
    tokenizer = wordpiece()
    module = tf.Module()
    module.tables = tokenizer.tables
    module.serve = tf.function(
        lambda texts: tokenizer.ids_of(texts).to_tensor(),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path / "export"))
    inputs = [text.encode("utf-8", "surrogatepass").hex() for text in texts]
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD_AND_RUN, str(tmp_path / "export"), *inputs],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    none, ids = json.loads(loaded.stdout)
    assert none == []
    assert ids == tokenizer.encode(texts)[0].to_tensor().numpy().tolist()


def test_a_wordpiece_is_the_same_after_a_way_through_json() -> None:
    keys = {"clean": False, "prefix": "@", "longest_word": 3, "unknown": "!", "max_tokens": 5}
    for tokenizer in (wordpiece(), wordpiece(lowercase=False, strip_accents=True, **keys)):
        saved = json.loads(json.dumps(tokenizer.to_json()))
        copy = tokenizer_from(saved)
        assert isinstance(copy, WordPiece)
        assert copy.to_json() == saved
        texts = array("Élan unaffable HELLO ab", "a\x0bb")
        assert copy.encode(texts)[0].to_list() == tokenizer.encode(texts)[0].to_list()
    assert wordpiece().summary == "29 WordPieces"
    assert wordpiece().vocabulary_size == len(VOCABULARY) == 29


def test_a_vocabulary_without_what_is_needed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no first token \[CLS\]"):
        wordpiece(["[PAD]", "[UNK]", "[SEP]"])
    with pytest.raises(ValueError, match=r"id 0 is \[UNK\], and must be the padding \[PAD\]"):
        wordpiece(["[UNK]", "[PAD]", "[CLS]", "[SEP]"])


def test_few_tokens_in_long_texts_are_a_question_of_the_language() -> None:
    tokenizer = wordpiece()
    few = Lengths(np.array([2, 4, 4]), np.array([50, 50, 50]))
    warning = tokenizer.warning(few)
    assert warning and "fewer than 3 tokens" in warning and "this language?" in warning
    assert "--tokens" not in warning
    assert tokenizer.warning(Lengths(np.array([5, 5, 5]), few.characters)) is None
