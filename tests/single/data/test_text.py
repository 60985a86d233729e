"""Texts to token ids, and the batches of texts that ranks take."""

import json
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from app.config import Data
from app.data.text.characters import IGNORED, UNDIVIDED
from app.data.text.splitting import normalize, standardize_words
from app.data.text.tokenizer import build_tokenizer, tokenizer_from
from app.data.text.vocabulary import Vocabulary, build_vocabulary

PADDING, UNKNOWN, FIRST = 0, 1, 2
ALL_TOKENS = ["words", "characters"]


def array(*texts: str) -> np.ndarray:
    return np.array(texts, dtype=object)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def ids_of(
    texts: np.ndarray,
    vocabulary: Sequence[str],
    tokens: str = "words",
    ngrams: int = 1,
    max_tokens: int = 10,
) -> list[list[int]]:
    return Vocabulary(tokens, ngrams, max_tokens, vocabulary).encode(texts)[0].to_list()


def ids_by_example(examples: int) -> list[str]:
    return [f"w{i}" for i in range(examples)]


def normalized(*texts: str | bytes) -> list[str]:
    return [text.decode() for text in normalize(tf.constant(texts)).numpy()]


@pytest.mark.parametrize(
    "spellings",
    [
        ("café", nfd("café"), "CAFÉ", nfd("CAFÉ")),
        ("full width 1", "ＦＵＬＬ　Ｗｉｄｔｈ　１"),
        ("office", "oﬃce"),
        ("豈", "\uf900"),  # a compatibility ideograph
        ("ガ", "ｶﾞ", nfd("ガ")),
        ("a", "𝐀", "ª"),
    ],
)
def test_all_spellings_of_a_text_are_normalized_to_the_same(spellings: tuple[str, ...]) -> None:
    assert set(normalized(*spellings)) == {unicodedata.normalize("NFKD", spellings[0])}


def test_normalization_is_nfkd_in_lower_case_for_every_visible_character_but_hangul() -> None:
    left_out = {*range(0xD800, 0xE000), *range(0xAC00, 0xD7A4)}  # surrogates and Hangul
    left_out |= {*IGNORED, *UNDIVIDED, 0x200B, 0x200D, *range(0xE0020, 0xE0080)}
    characters = [chr(code) for code in range(sys.maxunicode + 1) if code not in left_out]
    expected = [unicodedata.normalize("NFKD", c).lower().replace("ς", "σ") for c in characters]
    assert normalized("|".join(characters))[0].split("|") == "|".join(expected).split("|")
    assert normalized("한국어 각", "ΣΟΦΟΣ σοφος") == ["한국어 각", "σοφοσ σοφοσ"]


def test_bytes_that_are_not_utf_8_become_replacement_characters() -> None:
    assert normalized(b"caf\xe9!", b"\xff\xfe", b"A") == ["caf\ufffd!", "\ufffd\ufffd", "a"]


def test_normalization_keeps_the_shape_of_the_strings() -> None:
    texts = tf.constant([["É"], ["A"]])
    assert normalize(texts).numpy().tolist() == [[nfd("é").encode()], [b"a"]]
    assert normalize(tf.constant([], tf.string)).shape == (0,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("École ÉTÉ Straße", [nfd("école"), nfd("été"), "straße"]),
        ("ＦＵＬＬ Ｗｉｄｔｈ", ["full", "width"]),
        ("ΑΒΓ ДОМ", ["αβγ", "дом"]),
        ("don't; stop-now (please)!", ["don", "t", "stop", "now", "please"]),
        ("a «quoted» — text… £5", ["a", "quoted", "text", "5"]),
        ("one\ttwo\n three", ["one", "two", "three"]),
        ("ab世界cd한국", ["ab", "世", "界", "cd한국"]),
        ("ガードか゚", [nfd("ガ"), "ー", nfd("ド"), nfd("か゚")]),
    ],
)
def test_texts_are_lower_cased_and_split_at_spaces_punctuation_and_ideographs(
    text: str, words: list[str]
) -> None:
    assert sorted(build_vocabulary([array(text)], "words", 100, 1)) == sorted(words)
    standardized = standardize_words(tf.constant([text])).numpy()[0].decode()
    assert standardized.split() == words


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u2009", "\u2028", "\u0085", "\0"])
def test_unicode_spaces_split_words_too(space: str) -> None:
    vocabulary = build_vocabulary([array(f"one{space}two")], "words", 100, 1)
    assert vocabulary == ["one", "two"]


def test_each_chinese_character_is_a_word() -> None:
    texts = array("你好，世界。你好！")
    assert build_vocabulary([texts], "words", 100, 1) == ["你", "好", "世", "界"]
    vocabulary = build_vocabulary([texts], "words", 100, 2)
    assert vocabulary[:3] == ["你", "你 好", "好"]
    expected = [[vocabulary.index(token) + FIRST for token in ("你", "好", "你 好")], [UNKNOWN]]
    assert ids_of(array("你好", "再"), vocabulary, ngrams=2) == expected


def test_characters_are_tokens_with_one_for_any_run_of_spaces() -> None:
    vocabulary = build_vocabulary([array(" 你好，\u3000\n你 A")], "characters", 100, 1)
    assert sorted(vocabulary) == [" ", ",", "a", "你", "好"]
    place = {token: FIRST + i for i, token in enumerate(vocabulary)}
    expected = [place["a"], place[" "], place["你"], UNKNOWN, place[","]]
    assert ids_of(array("  Ａ  你界, "), vocabulary, "characters") == [expected]


def test_ngrams_of_characters_are_runs_of_them() -> None:
    assert build_vocabulary([array("abab")], "characters", 100, 2) == ["a", "a b", "b", "b a"]
    assert ids_of(array("ba"), ["a", "b", "b a"], "characters", ngrams=2) == [[3, 2, 4]]


@pytest.mark.parametrize("tokens", ALL_TOKENS)
def test_decomposed_and_full_width_texts_have_the_same_ids(tokens: str) -> None:
    texts = array("Élève ｗｉｄｅ 你好", "élève")
    vocabulary = build_vocabulary([texts], tokens, 30, 1)
    first, second = ids_of(array(texts[0], nfd("élÈve WIDE 你好")), vocabulary, tokens, 1, 100)
    assert first == second
    assert UNKNOWN not in first


def test_the_vocabulary_falls_in_frequency_and_is_cut() -> None:
    texts = array("c b a", "b a", "a")
    assert build_vocabulary([texts], "words", 100, 1) == ["a", "b", "c"]
    assert build_vocabulary([texts], "words", 4, 1) == ["a", "b"]  # two are padding and unknown


@pytest.mark.parametrize(("tokens", "ngrams"), [("words", 2), ("characters", 2)])
def test_the_vocabulary_depends_neither_on_the_order_of_the_texts_nor_on_chunks(
    tokens: str, ngrams: int
) -> None:
    texts = array("eel dog cow bee ant", "xi yak zoo", "ant cow eel", "zoo 你好", "你好 école")
    vocabulary = build_vocabulary([texts], tokens, 60, ngrams)
    assert build_vocabulary([texts[::-1]], tokens, 60, ngrams) == vocabulary
    assert build_vocabulary(iter([texts[:2], texts[2:2], texts[2:]]), tokens, 60, ngrams) == (
        vocabulary
    )


def test_ngrams_are_runs_of_up_to_so_many_words() -> None:
    vocabulary = build_vocabulary([array("the big cat")], "words", 100, 2)
    assert sorted(vocabulary) == ["big", "big cat", "cat", "the", "the big"]
    expected = [FIRST + vocabulary.index(token) for token in ("big", "cat", "big cat")]
    assert ids_of(array("Big cat"), vocabulary, ngrams=2) == [expected]


def test_an_id_is_the_place_in_the_vocabulary_and_one_for_unknown_words() -> None:
    ids, _ = Vocabulary("words", 1, 10, ["a", "b"]).encode(array("b A new b"))
    assert ids.dtype == tf.int32
    assert ids.to_list() == [[FIRST + 1, FIRST, UNKNOWN, FIRST + 1]]


@pytest.mark.parametrize("tokens", ALL_TOKENS)
@pytest.mark.parametrize("text", ["", "   ", "?!", "😀", "\ud800"])
def test_a_text_without_a_word_is_unknown(tokens: str, text: str) -> None:
    vocabulary = ["a"]
    rows = ids_of(array("a", text, "a"), vocabulary, tokens)
    assert len(rows) == 3
    assert set(rows[1]) == {UNKNOWN}
    assert rows[0] == rows[2] == [FIRST]


def test_texts_are_cut_at_max_tokens_and_their_tokens_counted() -> None:
    texts = array("a b a b", "b", "a b a")
    ids, lengths = Vocabulary("words", 1, 3, ["a", "b"]).encode(texts)
    assert ids.to_list() == [[2, 3, 2], [3], [2, 3, 2]]
    assert lengths.tokens.tolist() == [4, 1, 3]
    assert lengths.characters.tolist() == [7, 1, 5]
    assert Vocabulary("characters", 1, 3, ["a", "b"]).encode(texts)[1].tokens.tolist() == [7, 1, 5]


def test_many_texts_are_encoded_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.data.text.base.CHARACTERS_AT_ONCE", 1000)
    texts = array("w6 " * 500, *(f"w{i % 7} w{i % 3}" for i in range(900)))
    vocabulary = ids_by_example(7)
    expected = [[FIRST + 6] * 10] + [[FIRST + i % 7, FIRST + i % 3] for i in range(900)]
    assert ids_of(texts, vocabulary) == expected
    _, lengths = Vocabulary("words", 1, 1, vocabulary).encode(texts)
    assert np.count_nonzero(lengths.tokens > 1) == 901
    assert sorted(build_vocabulary([texts], "words", 100, 1)) == vocabulary
    assert ids_of(array(), vocabulary) == []


@pytest.mark.parametrize("tokens", ALL_TOKENS)
def test_training_texts_without_a_word_are_all_unknown(tokens: str) -> None:
    vocabulary = build_vocabulary([array("", " \n")], tokens, 100, 1)
    assert vocabulary == []
    assert ids_of(array("", "\n"), vocabulary, tokens) == [[UNKNOWN], [UNKNOWN]]
    assert set(ids_of(array("word"), vocabulary, tokens)[0]) == {UNKNOWN}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("tokens", ALL_TOKENS)
@pytest.mark.parametrize("text", ["a" * 10**6, "你" * 10**6, "a b " * 250_000])
def test_a_text_of_a_million_characters_is_no_trouble(tokens: str, text: str) -> None:
    texts = array(text, "a b 你")
    vocabulary = build_vocabulary([texts], tokens, 100, 1)
    ids, lengths = Vocabulary(tokens, 1, 50, vocabulary).encode(texts)
    one_word = tokens == "words" and text[:2] == "aa"
    assert ids.row_lengths().numpy()[0] == (1 if one_word else 50)
    assert (lengths.tokens > 50).tolist() == [not one_word, False]


LOAD_AND_RUN = """
import json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
texts = tf.constant([bytes.fromhex(text) for text in sys.argv[2:]])
print(json.dumps(model.serve(texts).numpy().tolist()))
assert not {"app", "tensorflow_text"} & set(sys.modules)
"""


@pytest.mark.full_matrix
@pytest.mark.parametrize("tokens", ALL_TOKENS)
def test_an_exported_layer_gives_the_same_ids_with_tensorflow_alone(
    tokens: str, tmp_path: Path
) -> None:
    texts = array("Élève, 你好世界!", nfd("élève ＷＩＤＥ"), "hello world 한국", "🎉", "")
    texts = array(*texts, "ที่ดี\u200bมา", "👨\u200d👩\u200d👧 👍🏽🇩🇪", "co\u00adop a\u200bb")
    wanted = Data(tokens=tokens, ngrams=2, vocabulary_size=60, max_tokens=8)
    tokenizer = build_tokenizer(wanted, [texts[:3]])
    everything = tf.constant([*(text.encode() for text in texts), b"\xffa"])
    expected = tokenizer.ids_of(everything).to_tensor().numpy().tolist()
    module = tf.Module()
    module.tables = tokenizer.tables
    module.serve = tf.function(
        lambda texts: tokenizer.ids_of(texts).to_tensor(),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path / "export"))

    inputs = [text.hex() for text in everything.numpy()]
    command = [sys.executable, "-c", LOAD_AND_RUN, str(tmp_path / "export"), *inputs]
    loaded = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    ids = json.loads(loaded.stdout)
    assert ids == expected
    for row, trained in zip(ids, tokenizer.encode(texts)[0].to_list(), strict=False):
        assert row == trained + [PADDING] * (len(row) - len(trained))


@pytest.mark.parametrize("tokens", ALL_TOKENS)
def test_a_tokenizer_is_the_same_after_a_way_through_json(tokens: str) -> None:
    texts = array("élève 你好 hello", "hello")
    tokenizer = build_tokenizer(Data(tokens=tokens, vocabulary_size=60, max_tokens=9), [texts])
    saved = json.loads(json.dumps(tokenizer.to_json()))
    copy = tokenizer_from(saved)
    assert copy.to_json() == saved
    assert (copy.kind, copy.max_tokens, copy.ngrams) == (tokens, 9, 1)
    assert copy.vocabulary_size == tokenizer.vocabulary_size == FIRST + len(saved["vocabulary"])
    assert copy.encode(texts)[0].to_list() == tokenizer.encode(texts)[0].to_list()


def test_ids_are_shown_as_their_tokens_without_padding() -> None:
    tokenizer = build_tokenizer(Data(), [array("a b", "a")])
    ids = tokenizer.ids_of(tf.constant(["b a new", "a"])).to_tensor().numpy()
    assert [tokenizer.tokens_of(row) for row in ids] == [["b", "a", "[unknown]"], ["a"]]
