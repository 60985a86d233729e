"""From a name to a dataset: files and folders of the user's own, and what the others refuse."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.config import Data
from app.data.bad import BadExamples
from app.data.catalogue import load_dataset, prepare_dataset
from app.data.examples import Dataset
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


def dataset_of(folder: Path | None = None, seed: int = 0, **data: object) -> Dataset:
    return load_dataset(Data(data_dir=folder, **data), seed, BadExamples())


def message_of(folder: Path | None = None, **data: object) -> str:
    with pytest.raises(UserError) as caught:
        dataset_of(folder, **data)
    return str(caught.value)


def test_a_csv_file_becomes_a_dataset_with_a_tenth_held_out_each_time(write, tmp_path) -> None:
    write("some.csv", csv_of(ROWS))
    dataset = dataset_of(tmp_path, seed=3, dataset="some.csv")
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
    dataset = dataset_of(tmp_path, dataset="some.csv", validation="dev.csv", test="test.csv")
    assert dataset.train.inputs.tolist() == [text for text, _ in ROWS]
    assert dataset.test.inputs.tolist() == ["one", "two"]
    assert dataset.test.labels.tolist() == [1, 0]
    assert dataset.validation is not None and dataset.validation.labels.tolist() == [1]


def test_the_split_is_that_of_the_seed(write, tmp_path: Path) -> None:
    write("some.csv", csv_of(ROWS))
    fingerprints = [
        dataset_of(tmp_path, seed, dataset="some.csv").fingerprint for seed in (1, 1, 2)
    ]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_label_that_training_lacks_is_named(write, tmp_path: Path) -> None:
    write("some.csv", csv_of(ROWS))
    path = write("test.csv", csv_of([("one", "odd"), ("two", "prime")]))
    message = message_of(tmp_path, dataset="some.csv", test="test.csv")
    assert f"{path}, line 3: label 'prime'" in message


def test_one_class_only_is_refused(write, tmp_path: Path) -> None:
    write("some.csv", csv_of([(text, "all") for text, _ in ROWS]))
    message = message_of(tmp_path, dataset="some.csv")
    assert "all 16 training examples have the label 'all'" in message


def test_a_share_that_holds_out_nothing_is_refused(write, tmp_path: Path) -> None:
    write("some.csv", csv_of(ROWS))
    message = message_of(tmp_path, dataset="some.csv", test=0.01)
    assert message.startswith(
        "test = 0.01 of 20 examples holds out none: give a larger share with --test"
    )
    message = message_of(tmp_path, dataset="some.csv", validation=0.001)
    assert "validation = 0.001 of 18 examples holds out none" in message


@pytest.mark.parametrize("share", [1.0, 5.0, -0.5])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    message = message_of(dataset="digits", validation=share)
    assert message.startswith(f"validation = {share}: expected a share between 0 and 1")


def test_no_validation_split_can_be_asked_for(write, tmp_path: Path) -> None:
    write("some.csv", csv_of(ROWS))
    assert set(dataset_of(tmp_path, dataset="some.csv", validation=0).splits) == {"train", "test"}


@pytest.mark.parametrize("options", [{"test": "test"}, {"test": 0.2}, {"validation": "dev.csv"}])
def test_the_test_split_of_an_embedded_dataset_is_fixed(options: dict[str, object]) -> None:
    assert "digits has a fixed test split" in message_of(dataset="digits", **options)


def test_embedded_datasets_and_files_need_no_preparation(monkeypatch) -> None:
    from app.data.sources import tfds as tfds_source

    prepared = []
    monkeypatch.setattr(tfds_source, "prepare", lambda data, names: prepared.append(data.dataset))
    for name in ("digits", "pydocs", "none.csv", "cifar10"):
        prepare_dataset(Data(dataset=name))
    assert prepared == ["cifar10"]


def test_a_validation_share_of_an_embedded_dataset_comes_from_its_training_split() -> None:
    whole = dataset_of(dataset="digits", validation=0)
    held_out = dataset_of(dataset="digits", validation=0.25)
    np.testing.assert_array_equal(whole.test.inputs, held_out.test.inputs)
    assert held_out.validation is not None
    assert len(held_out.validation) == round(0.25 * len(whole.train))
    assert len(held_out.train) + len(held_out.validation) == len(whole.train)


def picture(path: Path, value: int, size: tuple[int, int] = (4, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """20 pictures of cats and 20 of dogs."""
    for index in range(40):
        picture(tmp_path / "photos" / ("cat", "dog")[index % 2] / f"{index:02}.png", index)
    return tmp_path / "photos"


def test_a_folder_of_classes_is_split_by_the_seed(photos: Path) -> None:
    dataset = dataset_of(dataset=str(photos))
    assert (dataset.name, dataset.kind, dataset.class_names) == ("photos", "image", ("cat", "dog"))
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 32,
        "validation": 4,
        "test": 4,
    }
    paths = [dataset.train.where(i) for i in range(32)]
    again = dataset_of(dataset=str(photos))
    assert paths == [again.train.where(i) for i in range(32)]
    assert dataset.fingerprint == again.fingerprint
    assert dataset.fingerprint != dataset_of(seed=1, dataset=str(photos)).fingerprint


def test_the_splits_of_a_folder_are_used_as_they_are(photos: Path) -> None:
    root = photos.parent / "parted"
    for split, numbers in (("train", range(12)), ("val", range(12, 16)), ("test", range(16, 20))):
        for index in numbers:
            picture(root / split / ("cat", "dog")[index % 2] / f"{index}.jpg", index)
    dataset = dataset_of(photos.parent, dataset="parted")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 12,
        "validation": 4,
        "test": 4,
    }
    own = dataset_of(photos.parent, dataset="parted", validation=0.25, test="test")
    assert (len(own.train), len(own.splits["validation"])) == (9, 3)
    message = message_of(photos.parent, dataset="parted", test="tset")
    assert "has no split 'tset' for test" in message


def test_a_list_of_images_is_read_from_its_own_folder(photos: Path) -> None:
    rows = [f"{('cat', 'dog')[i % 2]}/{i:02}.png\t{('cat', 'dog')[i % 2]}" for i in range(40)]
    (photos / "list.tsv").write_text("\n".join(["image\tlabel", *rows]) + "\n")
    dataset = dataset_of(photos, dataset="list.tsv", test=0.2)
    assert (dataset.kind, len(dataset.splits["test"])) == ("image", 8)
    assert "list.tsv, line " in dataset.train.where(0)
    (photos / "list.tsv").write_text("image\tlabel\n../secret.png\tcat\ncat/00.png\tdog\n")
    picture(photos.parent / "secret.png", 1)
    assert "outside" in message_of(photos, dataset="list.tsv")


def test_class_names_that_are_numbers_are_in_the_order_of_numbers(write, tmp_path: Path) -> None:
    write("some.csv", csv_of([(f"text {i}", str(i % 12)) for i in range(120)]))
    names = dataset_of(tmp_path, dataset="some.csv").class_names
    assert names == tuple(str(i) for i in range(12))


def test_a_path_that_is_not_there_is_not_taken_for_a_dataset_of_tfds() -> None:
    with pytest.raises(UserError, match="no file or folder 'no/such/photos'"):
        prepare_dataset(Data(dataset="no/such/photos"))


def test_synthetic_datasets_have_the_size_that_is_asked_for() -> None:
    images = dataset_of(dataset="synthetic-image:examples=40,size=9,channels=1,classes=3")
    assert images.class_names == ("class 0", "class 1", "class 2")
    assert {name: len(split) for name, split in images.splits.items()} == {
        "train": 36,
        "validation": 4,
        "test": 4,
    }
    pixels = images.train.read(np.array([3, 5]))
    assert (pixels.shape, pixels.dtype) == ((2, 9, 9, 1), np.uint8)
    np.testing.assert_array_equal(pixels[1:], images.train.take(np.array([5])).read(np.array([0])))
    texts = dataset_of(dataset="synthetic-text:examples=50,words=7")
    assert all(len(text.split()) == 7 for text in texts.train.read(np.arange(45)))
    assert "unknown option 'sise': did you mean 'size'?" in message_of(
        dataset="synthetic-image:sise=3"
    )
    assert "expected a whole number above 0" in message_of(dataset="synthetic-text:words=many")
