"""Names of classes as people have them: those that look equal are one, and are told.

Each case is as in test_field_folders.py; a new one is one more entry in `CASES`.
"""

from pathlib import Path

import pytest

from app.data.sources.classes import clean_class_name
from tests.single.data.field_folders import COMPOSED, DECOMPOSED, TWO, WHOLE, Case, check


def rows(*labels: str) -> str:
    return "text,label\n" + "".join(
        f"text {i} {label},{label}\n" for i in range(5) for label in labels
    )


CASES = [
    *[
        Case(
            f"folders {name!a} and {other!a}",
            (f"{name}/{{}}.jpg", f"{other}/x{{}}.jpg", "zoo/{}.jpg"),
            keys=WHOLE,
            classes=(clean, "zoo"),
            splits={"train": 27, "test": 3},
            told=(f"class '{clean}' is one, written in 2 ways: ",),
        )
        for name, other, clean in (
            (COMPOSED, DECOMPOSED, COMPOSED),
            ("hot dog", "hot  dog", "hot dog"),
            ("hot dog", "hot\u00a0dog", "hot dog"),
            ("cat", "cat ", "cat"),
            ("cat", "cat\u200b", "cat"),
            ("cat", "\ufeffcat", "cat"),
            ("cat", "ca\u2060t", "cat"),
        )
    ],
    *[
        Case(
            f"folders of train and test: {name!a} and {other!a}",
            (f"train/{name}/{{}}.jpg", "train/zoo/{}.jpg", f"test/{other}/{{}}.jpg"),
            classes=(clean_class_name(name), "zoo"),
            splits={"train": 18, "validation": 2, "test": 10},
        )
        for name, other in ((COMPOSED, DECOMPOSED), ("cat ", "cat"), ("a\u200b b", "a\u00a0b"))
    ],
    *[
        Case(
            f"labels {name!a} and {other!a} in a table",
            tables={"t.csv": rows(name, other, "zoo")},
            keys={"dataset": "t.csv", "validation": 0, "test": 0.2},
            classes=(clean, "zoo"),
            splits={"train": 12, "test": 3},
            told=(f"t.csv: class '{clean}' is one, written in 2 ways: ",),
        )
        for name, other, clean in (
            (COMPOSED, DECOMPOSED, COMPOSED),
            ("hot dog", "hot  dog", "hot dog"),
            ("cat", "cat\u00a0", "cat"),
            ("cat", "cat\u200b", "cat"),
            ("cat", "c\ufeffat", "cat"),
        )
    ],
    *[
        Case(
            f"labels of two tables: {name!a} and {other!a}",
            tables={"t.csv": rows(name, "zoo"), "test.csv": rows(other)},
            keys={"dataset": "t.csv", "validation": 0, "test": "test.csv"},
            classes=(clean_class_name(name), "zoo"),
            splits={"train": 10, "test": 5},
        )
        for name, other in ((COMPOSED, DECOMPOSED), ("hot dog", "hot\u2060 \u00a0dog"))
    ],
    Case(
        "a label that nobody sees",
        tables={"t.csv": rows("cat", "dog") + "text,\u200b\n"},
        keys={"dataset": "t.csv", "test": 0.2},
        classes=TWO,
        told=("line 12: column 'label' is empty",),
    ),
    Case(
        "compatibility characters stay apart",
        ("x²/{}.jpg", "x2/{}.jpg", "①/{}.jpg", "1/{}.jpg"),
        keys=WHOLE,
        classes=("1", "x2", "x²", "①"),
        splits={"train": 36, "test": 4},
    ),
    Case(
        "letters that differ by case, in folders",
        ("A/{}.jpg", "a/{}.jpg"),
        refused=("'A' and 'a' differ only by case", "--case-sensitive-classes true"),
    ),
    Case(
        "letters that differ by case, in folders, wanted",
        ("A/{}.jpg", "a/{}.jpg"),
        keys={**WHOLE, "case_sensitive_classes": True},
        classes=("A", "a"),
        splits={"train": 18, "test": 2},
    ),
    Case(
        "letters that differ by case, in splits, wanted",
        tuple(f"{split}/{letter}/{{}}.jpg" for split in ("train", "test") for letter in "Aa"),
        keys={"validation": 0, "case_sensitive_classes": True},
        classes=("A", "a"),
        splits={"train": 20, "test": 20},
    ),
    Case(
        "letters that differ by case, in a table",
        tables={"t.csv": rows("A", "a")},
        keys={"dataset": "t.csv"},
        refused=("'A' (line 2) and 'a' (line 3) differ only by case", "--case-sensitive-classes"),
    ),
    Case(
        "letters that differ by case, in a table, wanted",
        tables={"t.csv": rows("A", "a")},
        keys={"dataset": "t.csv", "validation": 0, "test": 0.2, "case_sensitive_classes": True},
        classes=("A", "a"),
        splits={"train": 8, "test": 2},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_folders_and_names_as_people_have_them(tmp_path: Path, case: Case) -> None:
    check(case, tmp_path)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("  a \t b\u3000c ", "a b c"),
        ("e\u200b\u0301", "é"),  # what was between them is removed before they are composed
        ("\u200b\ufeff", ""),
        ("a\u200db", "a\u200db"),  # a joiner changes what is seen
        ("Å Å", "Å Å"),  # the unit is the letter in NFC
        ("①", "①"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_a_clean_name_is_what_is_seen(name: str, clean: str) -> None:
    assert clean_class_name(name) == clean
    assert clean_class_name(clean) == clean
