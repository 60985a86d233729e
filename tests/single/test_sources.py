"""Datasets of the user's own: CSV files, and what the embedded ones refuse."""

from pathlib import Path

import numpy as np
import pytest

from app.config import Data
from app.data.catalogue import load_dataset, prepare_dataset
from app.data.tables import read_csv
from app.errors import UserError

ROWS = [(f"text number {i}, with a comma", "even" if i % 2 == 0 else "odd") for i in range(20)]


def csv_of(rows: list[tuple[str, str]], header: str = "text,label") -> str:
    return "\n".join([header, *(f'"{text}",{label}' for text, label in rows)]) + "\n"


@pytest.fixture
def write(tmp_path: Path):
    """Writes a file of the data directory."""

    def to(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


def csv_message(path: Path, text: str | None = None, label: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read_csv(path, text, label)
    return str(caught.value)


def message_of(folder: Path | None = None, **data: object) -> str:
    with pytest.raises(UserError) as caught:
        load_dataset(Data(data_dir=folder, **data), seed=0)
    return str(caught.value)


def test_texts_and_labels_are_read_in_order(write) -> None:
    path = write("some.csv", csv_of(ROWS))
    texts, labels = read_csv(path, None, None)
    assert list(zip(texts, labels, strict=True)) == ROWS


def test_columns_may_have_any_name_and_place(write) -> None:
    path = write("some.csv", "id,intent,utterance\n1, pay ,how to pay\n2,stop,stop it\n")
    assert read_csv(path, "utterance", "intent") == (["how to pay", "stop it"], ["pay", "stop"])


def test_quotes_hold_commas_line_breaks_and_quotes(write) -> None:
    path = write("some.csv", 'text,label\n"a ""b"",\nc",x\n')
    assert read_csv(path, None, None) == (['a "b",\nc'], ["x"])


def test_a_byte_order_mark_and_windows_lines_are_accepted(write) -> None:
    path = write("some.csv", b"\xef\xbb\xbf" + "text,label\r\né,x\r\n".encode())
    assert read_csv(path, None, None) == (["é"], ["x"])


def test_a_missing_column_is_named_with_those_that_there_are(write) -> None:
    path = write("some.csv", "text,category\na,b\n")
    message = csv_message(path)
    assert f"{path} has no column 'label'" in message
    assert "Valid: category, text" in message and "--label-key" in message
    message = csv_message(path, "txt", "category")
    assert "no column 'txt': did you mean 'text'?" in message and "--input-key" in message


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("text,label\na,x\n,y\n", 3, "column 'text' is empty"),
        ("text,label\na,x\n  ,y\n", 3, "column 'text' is empty"),
        ("text,label\na,\n", 2, "column 'label' is empty"),
        ("text,label\na,x\n\nb,y\n", 3, "empty line: remove it"),
        ("text,label\na,x\nb, c,y\n", 3, "3 fields, but the header has 2"),
        ('text,label\n"a\nb",x\nc\n', 4, "1 fields, but the header has 2"),
        ('text,label\n"a" b,x\n', 2, "not valid CSV"),
        ('text,label\n"a,x\n', 2, "not valid CSV"),
    ],
)
def test_a_bad_row_is_named_by_its_line(write, content: str, line: int, reason: str) -> None:
    path = write("some.csv", content)
    message = csv_message(path)
    assert message.startswith(f"{path}, line {line}: ")
    assert reason in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("text,label\n", "has a header but no rows"),
        ("text,label\né,x\n".encode("latin-1"), "is not UTF-8 text"),
        ("text,label\na,x\n".encode("utf-16"), "is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(write, content: str | bytes, reason: str) -> None:
    path = write("some.csv", content)
    message = csv_message(path)
    assert str(path) in message and reason in message


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    assert csv_message(tmp_path / "none.csv") == f"no file {tmp_path / 'none.csv'}"
    (tmp_path / "folder.csv").mkdir()
    assert "folder.csv cannot be read" in csv_message(tmp_path / "folder.csv")


def test_a_csv_file_becomes_a_dataset_with_a_tenth_held_out_each_time(write, tmp_path) -> None:
    write("some.csv", csv_of(ROWS))
    dataset = load_dataset(Data(dataset="some.csv", data_dir=tmp_path), seed=3)
    assert (dataset.name, dataset.kind) == ("some", "text")
    assert dataset.class_names == ("even", "odd")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }
    pairs = [
        (text, dataset.class_names[label])
        for split in dataset.splits.values()
        for text, label in zip(split.inputs, split.labels, strict=True)
    ]
    assert sorted(pairs) == sorted(ROWS)


def test_files_for_validation_and_test_are_read(write, tmp_path: Path) -> None:
    write("some.csv", csv_of(ROWS))
    write("dev.csv", csv_of([("dev", "odd")]))
    write("test.csv", csv_of([("one", "odd"), ("two", "even")]))
    data = Data(dataset="some.csv", data_dir=tmp_path, validation="dev.csv", test="test.csv")
    dataset = load_dataset(data, seed=0)
    assert dataset.train.inputs.tolist() == [text for text, _ in ROWS]
    assert dataset.test.inputs.tolist() == ["one", "two"]
    assert dataset.test.labels.tolist() == [1, 0]
    assert dataset.validation is not None and dataset.validation.labels.tolist() == [1]


def test_the_split_is_that_of_the_seed(write, tmp_path: Path) -> None:
    write("some.csv", csv_of(ROWS))
    data = Data(dataset="some.csv", data_dir=tmp_path)
    fingerprints = [load_dataset(data, seed).fingerprint for seed in (1, 1, 2)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_label_that_training_lacks_is_named(write, tmp_path: Path) -> None:
    write("some.csv", csv_of(ROWS))
    path = write("test.csv", csv_of([("one", "odd"), ("two", "prime")]))
    message = message_of(tmp_path, dataset="some.csv", test="test.csv")
    assert f"{path}, data row 2: label 'prime'" in message


def test_one_class_only_is_refused(write, tmp_path: Path) -> None:
    write("some.csv", csv_of([(text, "all") for text, _ in ROWS]))
    message = message_of(tmp_path, dataset="some.csv")
    assert "all 16 training examples have the label 'all'" in message


def test_a_share_that_holds_out_nothing_is_refused(write, tmp_path: Path) -> None:
    write("some.csv", csv_of(ROWS))
    message = message_of(tmp_path, dataset="some.csv", test=0.01)
    assert message == "test = 0.01 of 20 examples is none: give a larger share"
    message = message_of(tmp_path, dataset="some.csv", validation=0.001)
    assert "validation = 0.001 of 18 examples is none" in message


@pytest.mark.parametrize("share", [1.0, 5.0, -0.5])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    message = message_of(dataset="digits", validation=share)
    assert message.startswith(f"validation = {share}: expected a share between 0 and 1")


def test_no_validation_split_can_be_asked_for(write, tmp_path: Path) -> None:
    write("some.csv", csv_of(ROWS))
    data = Data(dataset="some.csv", data_dir=tmp_path, validation=0)
    assert set(load_dataset(data, seed=0).splits) == {"train", "test"}


@pytest.mark.parametrize("options", [{"test": "test"}, {"test": 0.2}, {"validation": "dev.csv"}])
def test_the_test_split_of_an_embedded_dataset_is_fixed(options: dict[str, object]) -> None:
    assert "digits has a fixed test split" in message_of(dataset="digits", **options)


def test_embedded_datasets_and_files_need_no_preparation(monkeypatch) -> None:
    from app.data import tfds_source

    prepared = []
    monkeypatch.setattr(tfds_source, "prepare", lambda data, names: prepared.append(data.dataset))
    for name in ("digits", "pydocs", "none.csv", "cifar10"):
        prepare_dataset(Data(dataset=name))
    assert prepared == ["cifar10"]


def test_a_validation_share_of_an_embedded_dataset_comes_from_its_training_split() -> None:
    whole = load_dataset(Data(dataset="digits", validation=0), seed=0)
    held_out = load_dataset(Data(dataset="digits", validation=0.25), seed=0)
    np.testing.assert_array_equal(whole.test.inputs, held_out.test.inputs)
    assert held_out.validation is not None
    assert len(held_out.validation) == round(0.25 * len(whole.train))
    assert len(held_out.train) + len(held_out.validation) == len(whole.train)
