"""Reading the tokenizer of a Hugging Face directory, and what is said of those that are wrong."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.data.text.hf_tokenizer import read_wordpiece
from app.data.text.wordpiece import WordPiece
from app.errors import UserError

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "wor", "##ld", "élan"]
WHOLE: dict[str, Any] = {
    "version": "1.0",
    "truncation": {"max_length": 4},
    "padding": {"strategy": {"Fixed": 128}},
    "added_tokens": [{"id": 2, "content": "[CLS]", "special": True}],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": False,
        "handle_chinese_chars": False,
        "strip_accents": False,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 50,
        "vocab": {token: id for id, token in enumerate(VOCABULARY)},
    },
}


def write(directory: Path, whole: Any = None, lines: Any = None, config: Any = None) -> Path:
    """Files of these contents: JSON values, lists of lines, or bytes as they are."""
    contents = {"tokenizer.json": whole, "vocab.txt": lines, "tokenizer_config.json": config}
    for name, content in contents.items():
        if isinstance(content, list):
            content = "".join(f"{line}\n" for line in content).encode()
        elif isinstance(content, dict):
            content = json.dumps(content).encode()
        if content is not None:
            (directory / name).write_bytes(content)
    return directory


def changed(change: Callable[[Any], Any]) -> dict[str, Any]:
    whole = copy.deepcopy(WHOLE)
    change(whole)
    return whole


def test_a_tokenizer_json_is_read_without_its_truncation_and_padding(tmp_path: Path) -> None:
    saved = read_wordpiece(write(tmp_path, WHOLE, lines=["not", "read"]), 9)
    assert saved == {
        "kind": "wordpiece", "max_tokens": 9, "vocabulary": VOCABULARY, "lowercase": True,
        "strip_accents": False, "split_ideographs": False, "clean": False, "prefix": "##",
        "longest_word": 50, "unknown": "[UNK]", "first": "[CLS]", "last": "[SEP]",
        "padding": "[PAD]",
    }  # fmt: skip
    assert WordPiece.from_json(saved).to_json() == saved


def test_added_tokens_are_part_of_the_vocabulary(tmp_path: Path) -> None:
    added = [{"id": 9, "content": "[NEW]"}]
    saved = read_wordpiece(write(tmp_path, WHOLE | {"added_tokens": added}), 9)
    assert saved["vocabulary"] == [*VOCABULARY, "[NEW]"]


@pytest.mark.parametrize(
    ("config", "rules"),
    [
        (None, (True, None, True)),
        ({"do_lower_case": False}, (False, None, True)),
        ({"strip_accents": False, "tokenize_chinese_chars": False}, (True, False, False)),
        ({"tokenizer_class": "DistilBertTokenizerFast"}, (True, None, True)),
    ],
)
def test_a_vocab_txt_is_read_by_its_configuration(
    config: Any, rules: tuple[Any, ...], tmp_path: Path
) -> None:
    saved = read_wordpiece(write(tmp_path, lines=VOCABULARY, config=config), 9)
    assert saved["vocabulary"] == VOCABULARY
    assert (saved["lowercase"], saved["strip_accents"], saved["split_ideographs"]) == rules
    assert WordPiece.from_json(saved).vocabulary_size == 9


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_end_only_where_a_line_ends(end: bytes, tmp_path: Path) -> None:
    tokens = [*VOCABULARY, "a\u2028b", "c\x85d"]
    lines = end.join(token.encode() for token in tokens)
    for content in (lines, lines + end):
        assert read_wordpiece(write(tmp_path, lines=content), 9)["vocabulary"] == tokens


def test_special_tokens_may_have_other_names(tmp_path: Path) -> None:
    lines = ["<pad>", "<unk>", "<s>", "</s>", "a"]
    config = {"pad_token": "<pad>", "unk_token": {"content": "<unk>"}, "cls_token": "<s>"}
    write(tmp_path, lines=lines, config=config)
    (tmp_path / "special_tokens_map.json").write_text('{"sep_token": "</s>"}')
    tokenizer = WordPiece.from_json(read_wordpiece(tmp_path, 9))
    assert tokenizer.tokens_of([2, 4, 1, 3, 0]) == ["<s>", "a", "<unk>", "</s>"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "has neither tokenizer.json nor vocab.txt: give a directory as"),
    "BPE": (
        {"whole": changed(lambda one: one["model"].update(type="BPE"))},
        "tokenizer.json is a tokenizer of the kind BPE, and Lockstep reads WordPiece",
    ),
    "old BPE": (
        {"whole": {"model": {"vocab": {}, "merges": []}}},
        "tokenizer.json is a tokenizer of the kind BPE, and Lockstep reads WordPiece",
    ),
    "Unigram": (
        {"whole": {"model": {"type": "Unigram", "vocab": [["<s>", 0.0]]}}},
        "tokenizer.json is a tokenizer of the kind Unigram, and Lockstep reads WordPiece",
    ),
    "another normalizer": (
        {"whole": WHOLE | {"normalizer": {"type": "NFC"}}},
        "tokenizer.json has the normalizer NFC, and Lockstep knows BertNormalizer",
    ),
    "no pre-tokenizer": (
        {"whole": WHOLE | {"pre_tokenizer": None}},
        "tokenizer.json has the pre_tokenizer None, and Lockstep knows BertPreTokenizer",
    ),
    "no rule": (
        {"whole": changed(lambda one: one["normalizer"].pop("lowercase"))},
        "tokenizer.json is not as HF tokenizers writes it (KeyError: 'lowercase')",
    ),
    "a list of tokens": (
        {"whole": changed(lambda one: one["model"].update(vocab=VOCABULARY))},
        "tokenizer.json is not as HF tokenizers writes it (AttributeError:",
    ),
    "not JSON": (
        {"whole": b"version https://git-lfs"},
        "tokenizer.json is not JSON (Expecting value: line 1 column 1 (char 0)): download it again",
    ),
    "not an object": ({"whole": b"[]"}, "tokenizer.json is not a JSON object"),
    "not UTF-8": ({"whole": b'{"a": "\xff"}'}, "tokenizer.json is not UTF-8 (byte 7)"),
    "lines that are not UTF-8": ({"lines": b"a\xff"}, "vocab.txt is not UTF-8 (byte 1)"),
    "bad configuration": (
        {"lines": VOCABULARY, "config": b"{"},
        "tokenizer_config.json is not JSON",
    ),
    "a hole": (
        {"whole": changed(lambda one: one["model"]["vocab"].pop("hello"))},
        "tokenizer.json: no token has id 5, but others have greater ones",
    ),
    "an id twice": (
        {"whole": changed(lambda one: one["model"]["vocab"].update(hello=6))},
        "tokenizer.json: 'hello' and 'wor' both have id 6",
    ),
    "a token twice": (
        {"lines": [*VOCABULARY, "hello"]},
        "vocab.txt: lines 6 and 10 are both 'hello': each token has one line",
    ),
    "a parser": (
        {"lines": VOCABULARY, "config": {"tokenizer_class": "BertJapaneseTokenizer"}},
        "tokenizer_config.json asks for a BertJapaneseTokenizer, and without a tokenizer.json",
    ),
    "no last token": (
        {"lines": [token for token in VOCABULARY if token != "[SEP]"]},
        "vocab.txt has no token [SEP] for sep_token: if it is called otherwise, name it in",
    ),
    "no unknown token": (
        {"whole": changed(lambda one: one["model"].update(unk_token="<unk>"))},
        "tokenizer.json has no token <unk> for unk_token",
    ),
    "padding elsewhere": (
        {"lines": ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]},
        "vocab.txt: the padding [PAD] has id 1, and Lockstep pads with id 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_one_sentence(case: str, tmp_path: Path) -> None:
    files, message = BAD[case]
    with pytest.raises(UserError) as error:
        read_wordpiece(write(tmp_path, **files), 9)
    text = str(error.value)
    assert message in text
    assert text.startswith(str(tmp_path)) and "\n" not in text


def test_a_text_needs_room_for_a_token(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    with pytest.raises(UserError, match="max_tokens is 2, and a WordPiece needs at least 3"):
        read_wordpiece(tmp_path, 2)
    assert read_wordpiece(tmp_path, 3)["max_tokens"] == 3


def test_the_reader_loads_no_tensorflow() -> None:
    code = "import app.data.text.hf_tokenizer, sys; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
