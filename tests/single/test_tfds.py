"""TensorFlow Datasets: made here on disk, and the real ones where they are."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from app.config import Data
from app.data.catalogue import load_dataset
from app.data.tfds_source import find_keys, load_tfds, prepare
from app.errors import UserError

LABEL = tfds.features.ClassLabel(names=["cat", "dog"])


def store(folder: Path, name: str, features: dict[str, Any], **splits: list[dict]) -> None:
    """Write a dataset of these examples, in this order."""
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: list(enumerate(rows)) for split, rows in splits.items()},
        disable_shuffling=True,
    )


def pixels(value: int, height: int = 4, width: int = 4) -> np.ndarray:
    return np.full((height, width, 1), value, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Small datasets of every kind that matters."""
    path = tmp_path_factory.mktemp("tfds")
    rows = [{"id": f"n{i}", "image": pixels(i), "label": i % 2} for i in range(6)]
    same_size = {"id": tfds.features.Text(), "image": tfds.features.Image(shape=(4, 4, 1))}
    store(path, "images", {**same_size, "label": LABEL}, train=rows, test=rows[4:])
    rows = [{"text": f"text é {i}", "label": i % 2} for i in range(6)]
    text = {"text": tfds.features.Text()}
    store(path, "texts", {**text, "label": LABEL}, train=rows, dev=rows[:1], test=rows[:2])
    rows = [{"image": pixels(7, 3 + i, 5), "label": i % 2} for i in range(4)]
    any_size = {"image": tfds.features.Image(shape=(None, None, 1))}
    store(path, "mixed", {**any_size, "label": LABEL}, train=rows, test=rows)
    rows = [{"title": "t", "body": f"b{i}", "label": i % 2} for i in range(4)]
    two = {"title": tfds.features.Text(), "body": tfds.features.Text()}
    store(path, "pairs", {**two, "label": LABEL}, train=rows, test=rows)
    store(path, "bare", text, train=[{"text": "a"}], test=[{"text": "a"}])
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": -1}]
    store(path, "unlabelled", {**text, "label": LABEL}, train=rows[:1], test=rows)
    deep = {"image": tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16), "label": LABEL}
    rows = [{"image": pixels(1).astype(np.uint16), "label": i} for i in range(2)]
    store(path, "deep", deep, train=rows, test=rows)
    return path


def message_of(folder: Path, dataset: str, **data: object) -> str:
    with pytest.raises(UserError) as caught:
        load_tfds(Data(dataset=dataset, data_dir=folder, **data))
    return str(caught.value)


def test_images_are_found_beside_other_features_and_kept_in_order(folder: Path) -> None:
    dataset = load_tfds(Data(dataset="images", data_dir=folder))
    assert (dataset.kind, dataset.class_names) == ("image", ("cat", "dog"))
    assert dataset.train.inputs.shape == (6, 4, 4, 1)
    assert dataset.train.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert dataset.test.inputs[:, 0, 0, 0].tolist() == [4, 5]
    assert dataset.validation is None


def test_texts_are_found_and_decoded(folder: Path) -> None:
    dataset = load_tfds(Data(dataset="texts", data_dir=folder, validation="dev"))
    assert dataset.kind == "text"
    assert dataset.train.inputs.tolist() == [f"text é {i}" for i in range(6)]
    assert dataset.validation is not None and dataset.validation.inputs.tolist() == ["text é 0"]
    assert dataset.test.labels.tolist() == [0, 1]


def test_splits_may_be_parts_of_splits(folder: Path) -> None:
    data = Data(dataset="texts", data_dir=folder, train="train[:4]", test="train[4:]")
    dataset = load_tfds(data)
    assert dataset.train.inputs.tolist() == [f"text é {i}" for i in range(4)]
    assert dataset.test.inputs.tolist() == ["text é 4", "text é 5"]


def test_a_share_is_held_out_for_validation(folder: Path) -> None:
    dataset = load_dataset(Data(dataset="images", data_dir=folder, validation=0.34), seed=0)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }


def test_the_fingerprint_is_that_of_the_content(folder: Path) -> None:
    data = Data(dataset="images", data_dir=folder)
    part = Data(dataset="images", data_dir=folder, train="train[:5]")
    assert load_tfds(data).fingerprint == load_tfds(data).fingerprint
    assert load_tfds(data).fingerprint != load_tfds(part).fingerprint


def test_two_texts_need_a_choice(folder: Path) -> None:
    message = message_of(folder, "pairs")
    assert "pairs has 2 image or text features (" in message
    assert "title" in message and "body" in message  # in the order of a protobuf map: any
    assert "--input-key" in message
    dataset = load_tfds(Data(dataset="pairs", data_dir=folder, input_key="body"))
    assert dataset.train.inputs.tolist() == ["b0", "b1", "b2", "b3"]
    message = message_of(folder, "pairs", input_key="bodi")
    assert "--input-key bodi: did you mean 'body'?" in message


def test_a_dataset_without_labels_is_refused(folder: Path) -> None:
    message = message_of(folder, "bare")
    assert "bare has no class label features (its features: text)" in message


def test_examples_without_a_label_are_refused(folder: Path) -> None:
    assert "unlabelled, split 'test' has examples without a label" in message_of(
        folder, "unlabelled"
    )


def test_images_of_mixed_sizes_need_a_size(folder: Path) -> None:
    message = message_of(folder, "mixed")
    assert "mixed sizes (None, None, 1)" in message and "--image-size" in message


@pytest.mark.parametrize("name", ["mixed", "images"])
def test_images_are_resized(folder: Path, name: str) -> None:
    dataset = load_tfds(Data(dataset=name, data_dir=folder, image_size=2))
    assert dataset.train.inputs.shape[1:] == (2, 2, 1)
    assert dataset.train.inputs.dtype == np.uint8
    if name == "mixed":
        assert set(dataset.train.inputs.ravel()) == {7}
    else:
        assert dataset.train.inputs[:, 1, 1, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_images_of_16_bits_are_refused(folder: Path) -> None:
    assert "deep" in message_of(folder, "deep")


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_read(folder: Path) -> None:
    message = message_of(folder, "images", image_size=10_000_000)
    assert "of memory per rank" in message and "--image-size" in message


@pytest.mark.parametrize(
    ("role", "split"),
    [("train", "trian"), ("validation", "dev"), ("test", "train[5"), ("train", "train[:0]")],
)
def test_an_unknown_split_is_named_with_those_that_there_are(
    folder: Path, role: str, split: str
) -> None:
    message = message_of(folder, "images", **{role: split})
    assert f"no split '{split}' for {role}" in message
    assert "it has train, test" in message and f"--{role}" in message


def test_a_share_as_test_split_is_refused(folder: Path) -> None:
    assert "name a TFDS split" in message_of(folder, "images", test=0.2)


def prepare_message(folder: Path, dataset: str) -> str:
    with pytest.raises(UserError) as caught:
        prepare(Data(dataset=dataset, data_dir=folder), ("digits", "pydocs"))
    return str(caught.value)


def test_what_is_on_disk_needs_no_preparation(folder: Path) -> None:
    prepare(Data(dataset="images", data_dir=folder), ())


@pytest.mark.parametrize(
    ("given", "nearest"), [("imagse", "images"), ("digit", "digits"), ("cifr10", "cifar10")]
)
def test_an_unknown_dataset_names_the_nearest(folder: Path, given: str, nearest: str) -> None:
    message = prepare_message(folder, given)
    assert f"unknown dataset '{given}': did you mean '{nearest}'?" in message


def test_a_name_that_cannot_be_one_is_refused(folder: Path) -> None:
    assert "dataset 'a b/c d'" in prepare_message(folder, "a b/c d")


def test_a_failed_download_says_where_the_data_should_be(tmp_path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    message = prepare_message(tmp_path, "mnist")
    assert str(tmp_path) in message and "no route" in message and "to host" not in message
    assert "--data-dir" in message


class Info:
    """What `find_keys` reads of a `tfds.core.DatasetInfo`."""

    name = "some"

    def __init__(self, supervised_keys: tuple | None = None, **features: Any):
        self.features = tfds.features.FeaturesDict(features)
        self.supervised_keys = supervised_keys


IMAGE, TEXT = tfds.features.Image(), tfds.features.Text()


def test_an_image_comes_before_a_text() -> None:
    assert find_keys(Info(caption=TEXT, photo=IMAGE, kind=LABEL), None, None) == ("photo", "kind")


def test_supervised_keys_choose_and_flags_choose_before_them() -> None:
    info = Info(("b", "y"), a=TEXT, b=TEXT, x=LABEL, y=LABEL)
    assert find_keys(info, None, None) == ("b", "y")
    assert find_keys(info, "a", "x") == ("a", "x")
    assert find_keys(info, "a", None) == ("a", "y")


def test_supervised_keys_that_are_no_image_text_or_label_are_ignored() -> None:
    number = tfds.features.Scalar(dtype=tf.float32)
    info = Info(("image", "price"), image=IMAGE, price=number, label=LABEL)
    assert find_keys(info, None, None) == ("image", "label")


def test_two_labels_need_a_choice() -> None:
    with pytest.raises(UserError, match=r"2 class label features \(x, y\): .* --label-key"):
        find_keys(Info(a=TEXT, x=LABEL, y=LABEL), None, None)


def test_no_image_or_text_is_refused() -> None:
    with pytest.raises(UserError, match="no image or text features .*Lockstep needs one"):
        find_keys(Info(y=LABEL), None, None)


def real(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name a folder with the data")
    return Path(os.environ[variable])


@pytest.mark.parametrize(
    ("name", "shape", "counts", "test_per_class"),
    [
        ("cifar10", (32, 32, 3), {"train": 50_000, "test": 10_000}, 1000),
        ("clinc150", (), {"train": 15_000, "validation": 3_000, "test": 4_500}, 30),
    ],
)
def test_the_real_dataset_is_whole(name, shape, counts, test_per_class) -> None:
    validation = "validation" if "validation" in counts else 0
    data = Data(dataset=name, data_dir=real("LOCKSTEP_TFDS_DIR"), validation=validation)
    dataset = load_dataset(data, seed=0)
    assert {key: len(split) for key, split in dataset.splits.items()} == counts
    assert dataset.train.inputs.shape[1:] == shape
    assert set(np.bincount(dataset.test.labels)) == {test_per_class}
    assert len(set(np.bincount(dataset.train.labels))) == 1


def test_banking77_is_read_from_its_csv_files() -> None:
    data = Data(
        dataset="train.csv",
        test="test.csv",
        data_dir=real("LOCKSTEP_BANKING77_DIR"),
        label_key="category",
        validation=0,
    )
    dataset = load_dataset(data, seed=0)
    assert (len(dataset.train), len(dataset.test)) == (10_003, 3_080)
    assert len(dataset.class_names) == 77
    assert set(np.bincount(dataset.test.labels)) == {40}
    assert np.bincount(dataset.train.labels).min() == 35
