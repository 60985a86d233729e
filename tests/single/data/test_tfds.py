"""TensorFlow Datasets, made here on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from app.config import Data
from app.data.bad import BadExamples
from app.data.heads import Head
from app.data.hold import choose
from app.data.sources.tfds import load_tfds, prepare
from app.errors import UserError
from app.load import LoadedData
from tests.single.data.tfds_files import LABEL, held, store


def pixels(value: int, height: int = 4, width: int = 4) -> np.ndarray:
    return np.full((height, width, 1), value, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Small datasets of every kind that matters."""
    path = tmp_path_factory.mktemp("tfds")
    rows = [{"id": f"n{i}", "image": pixels(i), "label": i % 2} for i in range(6)]
    same_size = {"id": tfds.features.Text(), "image": tfds.features.Image(shape=(4, 4, 1))}
    store(path, "images", {**same_size, "label": LABEL}, train=rows, test=rows[4:])
    rows = [{"text": f"text é {i}", "label": i % 2} for i in range(7)]
    others = [{"text": f"text ü {i}", "label": i % 2} for i in range(2)]
    text = {"text": tfds.features.Text()}
    store(path, "texts", {**text, "label": LABEL}, train=rows[1:], dev=rows[:1], test=others)
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


def fingerprint(data: Data) -> str:
    return load_tfds(data, (), BadExamples()).fingerprint


def inputs_of(data: LoadedData, split: str = "train") -> np.ndarray:
    return data.splits[split].everything.numpy()  # type: ignore[attr-defined]


def texts_of(data: LoadedData, split: str = "train") -> list[str]:
    source = data.dataset.splits[split]
    return [text.decode() for text in source.read(np.arange(len(source)))]


def message_of(folder: Path, dataset: str, **keys: object) -> str:
    with pytest.raises(UserError) as caught:
        held(folder, dataset=dataset, **keys)
    return str(caught.value)


def test_images_are_found_beside_other_features_and_kept_in_order(folder: Path) -> None:
    data = held(folder, dataset="images")
    assert (data.dataset.kind, data.dataset.class_names) == ("image", ("cat", "dog"))
    assert inputs_of(data).shape == (6, 4, 4, 1)
    assert inputs_of(data)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert data.splits["train"].labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert inputs_of(data, "test")[:, 0, 0, 0].tolist() == [4, 5]
    assert "validation" not in data.splits


def test_texts_are_found_and_decoded(folder: Path) -> None:
    data = held(folder, dataset="texts", validation="dev")
    assert data.dataset.kind == "text"
    assert texts_of(data) == [f"text é {i}" for i in range(1, 7)]
    assert texts_of(data, "validation") == ["text é 0"]
    assert data.splits["test"].labels.tolist() == [0, 1]


def test_splits_may_be_parts_of_splits(folder: Path) -> None:
    data = held(folder, dataset="texts", train="train[:4]", test="train[4:]")
    assert texts_of(data) == [f"text é {i}" for i in range(1, 5)]
    assert texts_of(data, "test") == ["text é 5", "text é 6"]
    percent = held(folder, dataset="texts", train="train[:50%]", test="dev+test")
    assert texts_of(percent, "test") == ["text é 0", "text ü 0", "text ü 1"]
    assert len(percent.splits["train"]) == 3


def test_a_directory_is_as_good_as_a_name(folder: Path) -> None:
    by_name = held(folder, dataset="images").dataset.fingerprint
    assert held(folder / "images", dataset="1.0.0").dataset.fingerprint == by_name
    assert held(Path(), dataset=str(folder / "images")).dataset.fingerprint == by_name


def test_the_splits_of_the_dataset_are_the_default_and_a_share_is_held_out_if_it_has_none(
    folder: Path,
) -> None:
    def sizes(**keys: object) -> dict[str, int]:
        return {name: len(split) for name, split in held(folder, **keys).splits.items()}

    parts = {"train": "train[:4]", "test": "train[4:]"}
    assert sizes(dataset="images", validation=0.34) == {"train": 4, "validation": 2, "test": 2}
    assert sizes(dataset="texts", validation=0.34, **parts) == {
        "train": 3,
        "validation": 1,
        "test": 2,
    }
    assert sizes(dataset="images", test=0.34) == {"train": 4, "test": 2}


def test_an_example_to_train_and_to_test_on_is_refused(folder: Path) -> None:
    message = message_of(folder, "texts", train="train+dev", validation="dev")
    assert "1 examples are both in the training split 'train+dev' and in the validation" in message


def test_the_fingerprint_is_that_of_the_content(folder: Path) -> None:
    data = Data(dataset="images", data_dir=folder)
    part = Data(dataset="images", data_dir=folder, train="train[:5]")
    assert fingerprint(data) == fingerprint(data)
    assert fingerprint(data) != fingerprint(part)


def test_class_names_that_look_equal_are_one_class(tmp_path: Path) -> None:
    label = tfds.features.ClassLabel(names=["zoo", "caf\u00e9", "a  b", "cafe\u0301"])
    rows = [{"text": f"text {i}", "label": i} for i in range(4)]
    store(tmp_path, "names", {"text": tfds.features.Text(), "label": label}, train=rows)
    bad = BadExamples()
    dataset = load_tfds(Data(dataset="names", data_dir=tmp_path), (), bad)
    assert dataset.class_names == ("zoo", "caf\u00e9", "a b")
    assert dataset.train.labels.tolist() == [0, 1, 2, 1]
    assert len(bad.notes) == 1 and "is one, written in 2 ways: 'cafe\\u0301'" in bad.notes[0]


def test_two_texts_need_a_choice(folder: Path) -> None:
    message = message_of(folder, "pairs")
    assert "pairs has 2 image or text features (" in message
    assert "title" in message and "body" in message  # in the order of a protobuf map: any
    assert "--input-key" in message
    assert texts_of(held(folder, dataset="pairs", input_key="body", test="train[3:]",
                         train="train[:3]")) == ["b0", "b1", "b2"]  # fmt: skip
    message = message_of(folder, "pairs", input_key="bodi")
    assert "--input-key bodi: did you mean 'body'?" in message


def test_a_dataset_without_labels_is_refused(folder: Path) -> None:
    message = message_of(folder, "bare")
    assert "bare has no class label features (its features: text)" in message


def test_examples_without_a_label_are_refused(folder: Path) -> None:
    assert "unlabelled, split 'test' has examples without a label" in message_of(
        folder, "unlabelled"
    )


def test_one_of_several_labels_may_be_missing(tmp_path: Path) -> None:
    names = tfds.features.ClassLabel(names=["z", "caf\u00e9", "cafe\u0301"])
    features = {"text": tfds.features.Text(), "animal": LABEL, "place": names}
    rows = [
        {"text": f"text {i}", "animal": animal, "place": place}
        for i, (animal, place) in enumerate([(0, 1), (-1, 0), (1, -1), (1, 2), (-1, -1)])
    ]
    store(tmp_path, "two", features, train=rows[:4], test=rows[2:])
    given = Data(dataset="two", data_dir=tmp_path, label_key="animal,place")
    bad = BadExamples("skip")
    dataset = load_tfds(given, (), bad)
    assert dataset.heads == (Head("animal", ("cat", "dog")), Head("place", ("z", "caf\u00e9")))
    assert dataset.train.labels.tolist() == [[0, 1], [-1, 0], [1, -1], [1, 1]]
    assert dataset.test.labels.tolist() == [[1, -1], [1, 1]]
    assert dataset.test.read(np.arange(2)) == [b"text 2", b"text 3"]
    (one,) = bad.found
    assert "byte" in one.where and "without a label (-1): none of animal, place" in one.reason
    prepare(given, ())  # which leaves it to the loading to say what is bad
    with pytest.raises(UserError, match="none of animal, place"):
        load_tfds(given, (), BadExamples())
    assert len(bad.notes) == 1 and "two, 'place': class 'caf\u00e9' is one" in bad.notes[0]


def test_images_of_mixed_sizes_need_a_size(folder: Path) -> None:
    message = message_of(folder, "mixed")
    assert "mixed sizes" in message and "--image-size" in message


@pytest.mark.parametrize("name", ["mixed", "images"])
def test_images_are_resized(folder: Path, name: str) -> None:
    inputs = inputs_of(held(folder, dataset=name, image_size=2))
    assert inputs.shape[1:] == (2, 2, 1)
    assert inputs.dtype == np.uint8
    if name == "mixed":
        assert set(inputs.ravel()) == {7}
    else:
        assert inputs[:, 1, 1, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_images_of_16_bits_are_refused(folder: Path) -> None:
    assert "deep" in message_of(folder, "deep")


def test_images_that_do_not_fit_into_memory_are_streamed_or_refused_if_memory_is_asked_for(
    folder: Path,
) -> None:
    message = message_of(folder, "images", image_size=500_000, hold="memory")
    assert "needs 2,000.0 GB on a host" in message and "leave hold out" in message
    # Streaming is chosen before an image is decoded: one of 2 GB would not be.
    dataset = held(folder, dataset="images").dataset
    held_as = choose("auto", [(10**15, 1e9)], dataset)
    assert held_as.stream and "1,000,000.0 GB on a host" in held_as.why
    assert not choose("auto", [(1000, 1e9)], dataset).stream


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
    assert "dataset 'a b: c'" in prepare_message(folder, "a b: c")


def test_a_failed_download_says_where_the_data_should_be(tmp_path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    message = prepare_message(tmp_path, "mnist")
    assert str(tmp_path) in message and "no route" in message and "to host" not in message
    assert "--data-dir" in message


class LockstepInterrupted(tfds.core.GeneratorBasedBuilder):
    """A dataset whose preparation stops half way, once."""

    VERSION = tfds.core.Version("1.0.0")
    failure: BaseException | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"text": tfds.features.Text(), "label": LABEL}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self) -> Any:
        for index in range(20):
            if index == 10 and type(self).failure:
                raise type(self).failure  # type: ignore[misc]
            yield index, {"text": f"text {index}", "label": index % 2}


def test_a_preparation_that_fails_or_is_interrupted_is_done_again_from_the_start(
    tmp_path: Path, monkeypatch
) -> None:
    data = Data(dataset="lockstep_interrupted", data_dir=tmp_path)
    monkeypatch.setattr(LockstepInterrupted, "failure", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        prepare(data, ())
    monkeypatch.setattr(LockstepInterrupted, "failure", OSError("the disk is full"))
    assert "the disk is full" in prepare_message(tmp_path, "lockstep_interrupted")
    assert not list(tmp_path.rglob("lockstep_interrupted/1.0.0"))
    monkeypatch.setattr(LockstepInterrupted, "failure", None)
    prepare(data, ())
    assert len(held(tmp_path, dataset="lockstep_interrupted").splits["train"]) == 20
