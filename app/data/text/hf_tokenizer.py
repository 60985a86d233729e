"""Reads the WordPiece tokenizer of a Hugging Face directory. Knows nothing of TensorFlow.

`tokenizer.json` is read if there is one, else `vocab.txt`, which has a token a line, with
`tokenizer_config.json`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.errors import UserError

FEWEST_IDS = 3  # a first token, a piece and a last token
SPECIAL = {"unknown": "[UNK]", "first": "[CLS]", "last": "[SEP]", "padding": "[PAD]"}
HF_NAMES = {"unknown": "unk", "first": "cls", "last": "sep", "padding": "pad"}  # and "_token"
# Those whose vocab.txt is split as BERT's. (A Japanese BERT has the same file, and needs a parser.)
CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")


def read_wordpiece(directory: Path, max_tokens: int) -> dict[str, Any]:
    """The JSON of a `WordPiece` (see `app.data.text.wordpiece`) that cuts texts to `max_tokens`.

    Raises:
        UserError: a file is missing or broken, or holds another kind of tokenizer.
    """
    if max_tokens < FEWEST_IDS:
        raise UserError(
            f"max_tokens is {max_tokens}, and a WordPiece needs at least {FEWEST_IDS}, since each "
            "text has a first and a last token: give a greater one"
        )
    whole, lines = directory / "tokenizer.json", directory / "vocab.txt"
    config = _read_json(directory / "tokenizer_config.json", missing={})
    names = _special_names(directory, config)
    if whole.exists():
        place, (vocabulary, rules) = whole, _read_whole(whole)
    elif lines.exists():
        place, vocabulary, rules = lines, _read_lines(lines), _rules_of(directory, config)
    else:
        raise UserError(
            f"{directory} has neither tokenizer.json nor vocab.txt: give a directory as "
            "`huggingface-cli download MODEL --local-dir DIRECTORY` leaves it"
        )
    names |= {key: rules.pop(key) for key in SPECIAL if key in rules}
    for role, name in names.items():
        if name not in vocabulary:
            raise UserError(
                f"{place} has no token {name} for {HF_NAMES[role]}_token: if it is called "
                f"otherwise, name it in {directory / 'tokenizer_config.json'}"
            )
    if vocabulary[0] != names["padding"]:
        raise UserError(
            f"{place}: the padding {names['padding']} has id {vocabulary.index(names['padding'])}, "
            "and Lockstep pads with id 0: take a model whose padding has id 0, as BERT's has"
        )
    size = {"max_tokens": max_tokens, "vocabulary": vocabulary}
    return {"kind": "wordpiece", **rules, **names, **size}


def _read_whole(path: Path) -> tuple[list[str], dict[str, Any]]:
    """Of tokenizer.json: the tokens by id, and the rules."""
    saved = _read_json(path)
    model = _part(saved, "model")
    # Files of before 2021 do not name it.
    kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    if kind != "WordPiece":
        raise UserError(
            f"{path} is a tokenizer of the kind {kind}, and Lockstep reads WordPiece: take a model "
            "with BERT's tokenizer"
        )
    rules = _part(saved, "normalizer")
    for key, expected in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        if (found := _part(saved, key).get("type")) != expected:
            raise UserError(
                f"{path} has the {key} {found}, and Lockstep knows {expected}: take a model with "
                "BERT's tokenizer"
            )
    try:
        ids = {str(token): int(id) for token, id in model["vocab"].items()}
        ids |= {str(one["content"]): int(one["id"]) for one in saved.get("added_tokens") or []}
        found_rules = {
            "lowercase": bool(rules["lowercase"]),
            "strip_accents": rules.get("strip_accents"),
            "split_ideographs": bool(rules["handle_chinese_chars"]),
            "clean": bool(rules["clean_text"]),
            "prefix": str(model["continuing_subword_prefix"]),
            "longest_word": int(model["max_input_chars_per_word"]),
            "unknown": str(model["unk_token"]),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not as HF tokenizers writes it ({type(error).__name__}: {error}): "
            "download it again"
        ) from None
    return _by_id(path, ids), found_rules


def _by_id(path: Path, ids: Mapping[str, int]) -> list[str]:
    tokens: dict[int, str] = {}
    for token, id in ids.items():
        if id in tokens:
            raise UserError(
                f"{path}: {tokens[id]!r} and {token!r} both have id {id}: download it again"
            )
        tokens[id] = token
    for id in range(len(tokens)):
        if id not in tokens:
            raise UserError(
                f"{path}: no token has id {id}, but others have greater ones: download it again"
            )
    return [tokens[id] for id in range(len(tokens))]


def _read_lines(path: Path) -> list[str]:
    tokens = [line.rstrip("\r") for line in _read_text(path).removesuffix("\n").split("\n")]
    line_of: dict[str, int] = {}
    for line, token in enumerate(tokens, start=1):
        if token in line_of:
            raise UserError(
                f"{path}: lines {line_of[token]} and {line} are both {token!r}: each token has "
                "one line, so download it again"
            )
        line_of[token] = line
    return tokens


def _rules_of(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What goes with vocab.txt, by the keys and the defaults of HF's BertTokenizer."""
    kind = str(config.get("tokenizer_class") or CLASSES[0])
    if kind.removesuffix("Fast") not in CLASSES:
        raise UserError(
            f"{directory / 'tokenizer_config.json'} asks for a {kind}, and without a "
            "tokenizer.json Lockstep reads BERT's alone: take a model with BERT's tokenizer"
        )
    return {
        "lowercase": bool(config.get("do_lower_case", True)),
        "strip_accents": config.get("strip_accents"),
        "split_ideographs": bool(config.get("tokenize_chinese_chars", True)),
    }


def _special_names(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """By role, as the configuration calls them; a name may be an object with "content"."""
    map_of = _read_json(directory / "special_tokens_map.json", missing={})
    names = {}
    for role, usual in SPECIAL.items():
        key = f"{HF_NAMES[role]}_token"
        name = config.get(key) or map_of.get(key) or usual
        names[role] = str(name.get("content") if isinstance(name, dict) else name)
    return names


def _part(saved: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = saved.get(key)
    return part if isinstance(part, dict) else {}


def _read_json(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """`missing`: what a missing file stands for."""
    if missing is not None and not path.exists():
        return missing
    try:
        found = json.loads(_read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): download it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object: download it again")
    return found


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): download it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
