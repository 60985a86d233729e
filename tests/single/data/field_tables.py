"""Tables as people have them: what a case is, and how it is checked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.config import Data
from app.data.bad import BadExamples
from app.data.catalogue import read_dataset
from app.data.examples import Dataset
from app.errors import UserError

Content = str | bytes


@dataclass(frozen=True)
class Read:
    """Rows (text, label) that are read; `lines`: where they begin; `about`: what is said of how
    the file was read; `bad`: what is said of each row that on_bad = "skip" leaves out."""

    rows: list[tuple[str, str]]
    lines: list[int] | None = None
    about: str = ""
    bad: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Refused:
    """One error, which holds all of these."""

    parts: tuple[str, ...]


def refused(*parts: str) -> Refused:
    return Refused(parts)


# name, file, content, keys of [data], right outcome
Case = tuple[str, str, Content, dict[str, Any], Read | Refused]
AB = [("a, b", "x"), ("c; d", "y")]


def data_of(folder: Path, name: str, content: Content, **keys: Any) -> Data:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Data(dataset=str(folder / name), **keys)


def rows_of(dataset: Dataset, split: str = "train") -> list[tuple[str, str]]:
    source: Any = dataset.splits[split]
    names = [dataset.class_names[label] for label in source.labels]
    return list(zip(source.inputs.tolist(), names, strict=True))


def check(case: Case, folder: Path) -> None:
    """Read the file of a case, made in this folder, and compare what came of it."""
    _, file, content, keys, outcome = case
    data, bad = data_of(folder, file, content, **keys), BadExamples("skip")
    if isinstance(outcome, Refused):
        with pytest.raises(UserError) as caught:
            read_dataset(data, bad)
        assert len(str(caught.value).splitlines()) == 1
        for part in (file, *outcome.parts):
            assert part in str(caught.value)
        return
    dataset = read_dataset(data, bad)
    assert rows_of(dataset) == outcome.rows
    places = [dataset.train.where(row).rpartition(" ")[2] for row in range(len(outcome.rows))]
    assert outcome.lines is None or places == list(map(str, outcome.lines))
    assert outcome.about in dataset.notes[0]
    assert len(bad.found) == len(outcome.bad)
    for one, part in zip(bad.found, outcome.bad, strict=True):
        assert part in f"{one.where.partition(', ')[2]}: {one.reason}"
    if outcome.bad:  # the first is the error under the other policy
        with pytest.raises(UserError, match="--on-bad skip"):
            read_dataset(data, BadExamples("error"))
