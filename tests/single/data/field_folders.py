"""Folders and names as people have them: what a case is, and how it is checked."""

import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.config import Data
from app.data.bad import BadExamples
from app.data.catalogue import load_dataset
from app.errors import UserError


class Case(NamedTuple):
    """What is there, and what must come of it.

    `files`: paths to make, "{}" standing for 0 to 9; those that end with .csv are given with
    their content in `tables`. `splits`: what each split is counted to. `told`: what the notes and
    the list of bad examples must say; or `refused`: what the one message must say.
    """

    name: str
    files: tuple[str, ...] = ()
    tables: dict[str, str] = {}
    keys: dict[str, Any] = {}
    classes: tuple[str, ...] = ()
    splits: dict[str, int] = {}
    told: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


COMPOSED, DECOMPOSED = "café", unicodedata.normalize("NFD", "café")
TWO = ("cat", "dog")
WHOLE = {"validation": 0, "test": 0.1}
TRAIN = ("train/cat/{}.jpg", "train/dog/{}.jpg")


def make(root: Path, case: Case) -> None:
    for pattern in case.files:
        for path in [pattern.format(i) for i in range(10)] if "{}" in pattern else [pattern]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"content of " + path.encode())
    for name, content in case.tables.items():
        (root / name).write_text(content, encoding="utf-8")


def check(case: Case, folder: Path) -> None:
    """Load the data of a case, made in this folder, and compare what came of it."""
    root = folder / "data"
    root.mkdir()
    make(root, case)
    keys = dict(case.keys)
    keys["dataset"] = str(root / keys.get("dataset", "."))
    for split in ("validation", "test"):
        if str(keys.get(split)).endswith(".csv"):
            keys[split] = str(root / keys[split])
    bad = BadExamples("skip")
    if case.refused:
        with pytest.raises(UserError) as caught, bad.shown_before_errors():
            load_dataset(Data(**keys), 0, bad)
        for part in case.refused:
            assert part in str(caught.value)
        return
    dataset = load_dataset(Data(**keys), 0, bad)
    assert dataset.kind == ("image" if case.files else "text")
    assert dataset.class_names == case.classes
    if case.splits:
        assert {name: len(split) for name, split in dataset.splits.items()} == case.splits
    told = bad.left_out(100)
    for part in case.told:
        assert any(part in line for line in told), (part, told)
    assert case.told or not told
