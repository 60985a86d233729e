"""Several labels of a table: a head for each column, and what an empty cell means."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from app.config import Data
from app.data.bad import BadExamples
from app.data.catalogue import load_dataset
from app.data.examples import Dataset, Examples
from app.data.heads import MISSING, Head, labelled, strata
from app.errors import UserError
from tests.single.data.reading import file_message, message_of, read, rows

COLUMNS = ("text", "intent", "domain")
ROWS = [
    ("fly there", "book", "travel"),
    ("what is love", "other", None),
    ("how far", None, "travel"),
    ("transfer it", "send", "bank"),
    ("to cash", "send", " bank "),
]
EXPECTED = [(*row[:2], row[2] and row[2].strip()) for row in ROWS]


def write_rows(path: Path, rows: Any, columns: tuple[str, ...] = COLUMNS) -> Path:
    """The rows in the format that the name of the file says."""
    if path.suffix == ".parquet":
        table = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
        pyarrow.parquet.write_table(pyarrow.table(table), path)
        return path
    objects = [dict(zip(columns, row, strict=True)) for row in rows]
    if path.suffix == ".json":
        path.write_text(json.dumps(objects))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    else:
        separator = "," if path.suffix == ".csv" else "\t"
        lines = [separator.join("" if one is None else one for one in row) for row in rows]
        path.write_text("\n".join([separator.join(columns), *lines]) + "\n")
    return path


def dataset_of(path: Path, bad: BadExamples | None = None, **keys: Any) -> Dataset:
    given = {"label_key": "intent,domain", "validation": 0, "data_dir": path.parent, **keys}
    return load_dataset(Data(dataset=path.name, **given), 0, bad or BadExamples())


def refused(path: Path, **keys: Any) -> str:
    with pytest.raises(UserError) as caught:
        dataset_of(path, **keys)
    return str(caught.value)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """60 rows: of ten each a quarter lacks the second label, and one the first."""
    made = []
    for i in range(60):
        intent = None if i % 10 == 3 else ("send", "book", "ask")[i % 3]
        domain = None if i % 4 == 0 else ("bank", "travel")[i % 2]
        made.append((f"text {i}", intent, domain))
    return write_rows(tmp_path / "t.csv", made)


# What is read


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_a_cell_that_is_empty_or_null_is_a_missing_label(tmp_path: Path, suffix: str) -> None:
    path = write_rows(tmp_path / f"a{suffix}", ROWS)
    assert rows(path, None, "intent,domain") == EXPECTED
    assert [one.key for one in read(path, None, "domain, intent").labels] == ["domain", "intent"]
    blank = [(text, intent, domain or "  ") for text, intent, domain in ROWS if intent]
    path = write_rows(tmp_path / f"b{suffix}", blank)
    assert [row[2] for row in rows(path, None, "intent,domain")] == ["travel", None, "bank", "bank"]


def test_with_one_label_an_empty_cell_is_as_bad_as_ever(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS)
    assert message_of(path, None, "domain").startswith(f"{path}, line 3: column 'domain' is empty")
    path = write_rows(tmp_path / "a.parquet", ROWS)
    message = message_of(path, None, "domain")
    assert f"{path}, row 2: 'domain' must be a string" in message and "got null" in message


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_row_without_any_label_is_bad(tmp_path: Path, suffix: str) -> None:
    path = write_rows(tmp_path / f"a{suffix}", [*ROWS, ("nothing", None, " ")])
    message = message_of(path, None, "intent,domain")
    assert "columns 'intent', 'domain' are empty: every example needs a label" in message
    bad = BadExamples("skip")
    dataset = dataset_of(path, bad, test=0.4)
    assert len(bad.found) == 1 and bad.found[0].where in message
    assert sum(map(len, dataset.splits.values())) == len(ROWS)


def test_a_column_that_has_a_comma_in_its_name_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,"a,b",a,b\none,x,1,2\ntwo,y,3,4\n')
    assert rows(path, None, "a,b") == [("one", "x"), ("two", "y")]
    assert rows(path, None, "a, b") == [("one", "1", "2"), ("two", "3", "4")]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ((None, "intent,intent"), "--label-key intent,intent names a column twice"),
        (("intent", "domain,intent"), "column 'intent' cannot be both input and label"),
        ((None, "intent,domian"), "has no column 'domian': did you mean 'domain'?"),
        ((None, "intent,"), "has no column 'intent,'"),
    ],
)
def test_keys_that_name_no_labels_are_one_error(tmp_path, suffix, keys, expected) -> None:
    path = write_rows(tmp_path / f"a{suffix}", ROWS)
    assert expected in file_message(path, *keys)


def test_each_column_says_whether_its_labels_are_numbers(tmp_path: Path) -> None:
    made = [("a", "1.0", "1.0"), ("b", "2", "nan"), ("c", "NaN", "x"), ("d", "", "y")]
    path = write_rows(tmp_path / "a.csv", made, ("text", "stars", "name"))
    labels = read(path, None, "stars,name").labels
    assert labels[0].names == ["1", "2", None, None] and labels[0].numbers
    assert labels[1].names == ["1.0", "nan", "x", "y"] and not labels[1].numbers
    about = read(path, None, "stars,name").about
    assert about.endswith("'nan' is a class by its name in column 'name'")
    made = [("a", "nan", ""), ("b", "1", "x")]
    path = write_rows(tmp_path / "b.csv", made, ("text", "stars", "name"))
    message = message_of(path, None, "stars,name")
    assert "line 2: columns 'stars', 'name' are empty" in message


def test_a_number_that_is_missing_in_parquet_is_a_missing_label(tmp_path: Path) -> None:
    table = {"text": ["a", "b", "c"], "stars": [1.0, float("nan"), 2.0], "votes": [None, 7, 8]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    labels = read(tmp_path / "a.parquet", None, "stars,votes").labels
    assert [one.names for one in labels] == [["1", None, "2"], [None, "7", "8"]]


def test_spellings_and_case_are_those_of_a_column(tmp_path: Path) -> None:
    made = [("a", "Cat", "cat"), ("b", "x  y", "x y"), ("c", "x y", "d")]
    path = write_rows(tmp_path / "a.csv", made)
    bad = BadExamples()
    dataset = dataset_of(path, bad, test=0.4)
    assert dataset.heads == (Head("intent", ("Cat", "x y")), Head("domain", ("cat", "d", "x y")))
    assert len(bad.notes) == 1 and f"{path}, 'intent': class 'x y' is one" in bad.notes[0]
    path = write_rows(tmp_path / "b.csv", [("a", "Cat", "d"), ("b", "", "D"), ("c", "x", "e")])
    expected = "the classes 'd' (line 2) and 'D' (line 3) differ only by case"
    assert f"{path}, column 'domain': {expected}" in refused(path)
    dataset = dataset_of(path, case_sensitive_classes=True, test="a.csv", bad=BadExamples("skip"))
    assert dataset.heads[1].class_names == ("D", "d", "e")


# What becomes of it


def test_labels_are_numbered_by_column(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS)
    write_rows(tmp_path / "test.csv", [("x", "send", ""), ("y", "", "travel")])
    dataset = dataset_of(path, test="test.csv")
    intents, domains = ("book", "other", "send"), ("bank", "travel")
    assert dataset.heads == (Head("intent", intents), Head("domain", domains))
    assert dataset.class_names == intents
    assert dataset.train.labels.tolist() == [[0, 1], [1, -1], [-1, 1], [2, 0], [2, 0]]
    assert dataset.test.labels.tolist() == [[2, -1], [-1, 1]]
    assert dataset.train.labels.dtype == np.int64
    one = dataset_of(path, BadExamples("skip"), label_key="intent", test="test.csv")
    assert one.heads == (Head("label", intents),)
    assert one.train.labels.tolist() == [0, 1, 2, 2]


def test_a_label_that_training_lacks_makes_the_row_bad_and_the_column_is_named(tmp_path) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS)
    others = [("x", "send", "sport"), ("y", "walk", "park"), ("z", "", "bank")]
    test = write_rows(tmp_path / "test.csv", others)
    expected = "label 'sport' of column 'domain' does not occur in the training file"
    assert f"{test}, line 2: {expected}" in refused(path, test="test.csv")
    bad = BadExamples("skip")
    assert dataset_of(path, bad, test="test.csv").test.labels.tolist() == [[-1, 0]]
    assert [one.reason[:35] for one in bad.found] == [
        "label 'sport' of column 'domain' do", "label 'walk' of column 'intent' doe"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("second", "expected"),
    [("", "'domain' has no label at all"), ("all", "'domain' has only 'all'")],
)
def test_a_label_with_nothing_to_learn_is_named(tmp_path: Path, second: str, expected: str) -> None:
    made = [(f"text {i}", "xy"[i % 2], second if i % 3 else "") for i in range(20)]
    message = refused(write_rows(tmp_path / "a.csv", made))
    assert f"in the training examples {expected}: there is nothing to learn" in message
    assert "--label-key" in message


def test_what_is_held_out_has_its_share_of_the_first_label_and_of_those_without(table) -> None:
    dataset = dataset_of(table, test=0.5)
    for value in (0, 1, 2, MISSING):
        parts = (dataset.test, dataset.train)
        held, kept = (int((part.labels[:, 0] == value).sum()) for part in parts)
        assert held and abs(held - kept) <= 1
    assert strata(dataset.train.labels).max() == 3
    assert labelled(dataset.train.labels)[1] < len(dataset.train)


def test_the_fingerprint_is_that_of_all_labels(tmp_path: Path) -> None:
    def fingerprint(rows: Any, columns: Any = COLUMNS, key: str = "intent,domain") -> str:
        path = write_rows(tmp_path / "a.csv", rows, columns)
        return dataset_of(path, label_key=key, test="a.csv").fingerprint

    renamed = [(*row[:2], row[2] and row[2].replace("bank", "money")) for row in ROWS]
    found = [
        fingerprint(ROWS),
        fingerprint(ROWS[:3] + [("transfer it", "send", None)] + ROWS[4:]),
        fingerprint(ROWS, ("text", "intent", "field"), "intent,field"),
        fingerprint(ROWS, key="domain,intent"),
        fingerprint(renamed),
    ]
    assert len(set(found)) == len(found)
    assert fingerprint(EXPECTED) == found[0]


def test_a_list_of_images_has_several_labels(tmp_path: Path) -> None:
    made = [(f"{i}.png", "ab"[i % 2], ("x", "y", None)[i % 3]) for i in range(12)]
    for place, (name, _, _) in enumerate(made):
        Image.new("L", (4, 4), place).save(tmp_path / name)
    made.insert(4, ("gone.png", "a", "x"))
    bad = BadExamples("skip")
    path = write_rows(tmp_path / "a.csv", made, ("image", "kind", "place"))
    dataset = dataset_of(path, bad, label_key="kind,place", test=0.25)
    assert dataset.kind == "image" and [one.where for one in bad.found] == [f"{path}, line 6"]
    found = {}
    for source in dataset.splits.values():
        found |= dict(zip(source.paths, source.labels.tolist(), strict=True))  # type: ignore
    expected = {name: ["ab".index(a), "xy".index(b) if b else -1] for name, a, b in made}
    del expected["gone.png"]
    assert found == expected


@pytest.mark.parametrize("dataset", ["digits", "synthetic-text", "photos"])
def test_what_has_no_columns_has_no_several_labels(tmp_path: Path, dataset: str) -> None:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="label_key = 'a,b' names columns, and .* has no columns"):
        load_dataset(Data(dataset=dataset, label_key="a,b", data_dir=tmp_path), 0, BadExamples())


def test_a_dataset_wants_a_label_for_each_head() -> None:
    texts = np.array(["a", "b"], dtype=object)
    heads = (Head("x", ("p", "q")), Head("y", ("r", "s")))

    def made(labels: list, heads: tuple[Head, ...] = heads) -> Dataset:
        return Dataset("d", "text", ("p", "q"), Examples(texts, np.array(labels)), heads=heads)

    assert made([[0, -1], [-1, 1]]).heads == heads
    with pytest.raises(ValueError, match="row 1 has label 'y' 2"):
        made([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="1 labels, but 2 heads"):
        made([0, 1])
    with pytest.raises(ValueError, match="row 0 has label -1"):
        made([-1, 1], ())
