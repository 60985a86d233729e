"""A copy for fast streaming: what is written is what was read, and Lockstep and TFDS read it."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from app.config import Data
from app.data import export
from app.data.bad import BadExamples
from app.data.catalogue import load_dataset
from app.data.examples import Dataset, Examples
from app.data.export import export_tfrecord
from app.data.heads import Head
from app.data.images import ImageSpec, decode_images
from app.errors import UserError

TEXTS = [
    "plain",
    "好吃，真好吃",
    "two\r\nlines",
    "😀 emoji",
    "x" * 100_000,
    " spaces  ",
    "a",
    "b",
    "c",
]
NAMES = ("negative", "positive", "差评 or worse")
LABELS = np.array([2, 1, 0, 1, 2, 2, 0, 1, 0], np.int64)


def png(color: tuple[int, int, int], size: tuple[int, int], mode: str = "RGB") -> bytes:
    """A smooth picture, so that JPEG changes it little."""
    ramp = np.linspace(0, 40, size[0] * size[1]).reshape(size[1], size[0], 1)
    file = io.BytesIO()
    Image.fromarray((np.array(color) + ramp).astype(np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    """The indices of the copies do not go into the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def texts() -> Dataset:
    """Nine texts, the same for training and test but for their order."""
    inputs = np.array(TEXTS, dtype=object)
    train, test = Examples(inputs, LABELS), Examples(inputs[::-1], LABELS[::-1])
    return Dataset("some texts", "text", NAMES, train, None, test)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve images of mixed sizes in three splits, and two classes."""
    root = tmp_path / "photos"
    for split, number in (("train", 3), ("validation", 1), ("test", 2)):
        for name, color in (("blue", (20, 30, 200)), ("red", (200, 30, 20))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                (folder / f"{i}.png").write_bytes(png(color, (10 + i, 12 + number)))
    return root


def read(folder: Path, **data: object) -> Dataset:
    return load_dataset(Data(dataset=str(folder), **data), 0, BadExamples())


def content(dataset: Dataset) -> dict[str, list[tuple[bytes, str]]]:
    """Of each split the (bytes, class name) of all examples, sorted."""
    found = {}
    for split, source in dataset.splits.items():
        inputs = [
            one.encode() if isinstance(one, str) else one
            for one in source.read(np.arange(len(source)))
        ]
        names = [dataset.class_names[label] for label in source.labels]
        found[split] = sorted(zip(inputs, names, strict=True))
    return found


def test_texts_come_back_with_their_labels_in_every_split(texts, tmp_path) -> None:
    export_tfrecord(texts, tmp_path / "copy", 0, None)
    again = read(tmp_path / "copy", validation=0)
    assert again.kind == "text"
    assert again.class_names == NAMES
    assert content(again) == content(texts)


def test_several_labels_come_back_each_a_feature_of_its_own(texts, tmp_path: Path) -> None:
    heads = (Head("mood", NAMES), Head("wo/où", ("x", "y")))
    labels = np.stack([LABELS, np.array([-1, 0, 1, 0, -1, 1, 0, 1, -1])], axis=1)
    labels[1, 0] = -1
    examples = Examples(np.array(TEXTS, dtype=object), labels)
    dataset = dataclasses.replace(texts, train=examples, test=examples, heads=heads)
    export_tfrecord(dataset, tmp_path / "copy", 0, None)
    again = read(tmp_path / "copy", validation=0, label_key="mood,wo/où")
    assert again.heads == heads
    rows = {
        (text.decode(), *of)
        for text, of in zip(again.test.read(np.arange(9)), again.test.labels.tolist(), strict=True)
    }
    assert rows == {(text, *of) for text, of in zip(TEXTS, labels.tolist(), strict=True)}
    swapped = read(tmp_path / "copy", validation=0, label_key="wo/où,mood")
    assert swapped.train.labels.tolist() == again.train.labels[:, ::-1].tolist()
    info = tfds.builder_from_directory(str(tmp_path / "copy")).info
    assert info.features["wo/où"].names == ["x", "y"]
    with pytest.raises(UserError, match="2 class label features .* --label-key"):
        read(tmp_path / "copy", validation=0)


def test_a_label_called_as_the_input_is_refused(texts, tmp_path: Path) -> None:
    labels = np.stack([LABELS, LABELS], axis=1)
    examples = Examples(np.array(TEXTS, dtype=object), labels)
    heads = (Head("mood", NAMES), Head("text", NAMES))
    dataset = dataclasses.replace(texts, train=examples, test=None, heads=heads)
    with pytest.raises(UserError, match="the label 'text' .*: rename the column"):
        export_tfrecord(dataset, tmp_path / "copy", 0, None)
    assert not (tmp_path / "copy").exists()


def test_images_keep_the_bytes_of_their_files(photos: Path, tmp_path: Path) -> None:
    original = read(photos)
    export_tfrecord(original, tmp_path / "copy", 0, None)
    again = read(tmp_path / "copy")
    assert again.kind == "image"
    assert {name: len(split) for name, split in again.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 4,
    }
    assert content(again) == content(original)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_resized_as_training_would_resize_them(photos, tmp_path, channels) -> None:
    original, spec = read(photos), ImageSpec(8, "pad", channels)
    export_tfrecord(original, tmp_path / "copy", 0, spec)
    again = read(tmp_path / "copy")
    assert again.image_shape == (8, 8, channels)
    assert len(again.train) == len(original.train)
    keep = ImageSpec(None, "crop", channels)  # decodes without a change of size

    def by_class(dataset: Dataset, spec: ImageSpec) -> list[np.ndarray]:
        source = dataset.splits["test"]
        images, _ = decode_images(list(source.read(np.arange(len(source)))), spec)
        return [images[source.labels == label].astype(int) for label in (0, 1)]

    for resized, expected in zip(by_class(again, keep), by_class(original, spec), strict=True):
        assert resized.shape == expected.shape == (2, 8, 8, channels)
        # The copy is shuffled: compare what does not depend on the order. JPEG costs a little.
        assert np.abs(resized.mean(axis=0) - expected.mean(axis=0)).max() < 12


def test_pixels_in_memory_are_written_without_loss(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 1), np.uint8)
    examples = Examples(pixels, np.array([0, 1, 2, 2, 1, 0], np.int64))
    export_tfrecord(
        Dataset("noise", "image", NAMES, examples, None, examples), tmp_path / "c", 0, None
    )
    source = read(tmp_path / "c", validation=0).train
    images, failed = decode_images(list(source.read(np.arange(6))), ImageSpec(None, "crop", 1))
    assert failed == []
    found = {
        (image.tobytes(), int(label)) for image, label in zip(images, source.labels, strict=True)
    }
    assert found == {
        (one.tobytes(), int(label)) for one, label in zip(pixels, examples.labels, strict=True)
    }


def test_tfds_reads_the_copies(texts: Dataset, photos: Path, tmp_path: Path) -> None:
    export_tfrecord(texts, tmp_path / "texts", 0, None)
    builder = tfds.builder_from_directory(str(tmp_path / "texts"))
    assert builder.info.features["label"].names == list(NAMES)
    rows = tfds.as_numpy(builder.as_dataset(split="train"))
    assert sorted((row["text"], int(row["label"])) for row in rows) == sorted(
        (text.encode(), int(label)) for text, label in zip(TEXTS, LABELS, strict=True)
    )
    export_tfrecord(read(photos), tmp_path / "images", 0, ImageSpec(8, "crop", 3))
    builder = tfds.builder_from_directory(str(tmp_path / "images"))
    rows = list(tfds.as_numpy(builder.as_dataset(split="test")))
    assert [row["image"].shape for row in rows] == [(8, 8, 3)] * 4
    for row in rows:  # blue is class 0, red 1
        assert (row["image"][..., 0].mean() > row["image"][..., 2].mean()) == (row["label"] == 1)


def test_many_shards_hold_every_example_once(texts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "SHARD_BYTES", 60)
    export_tfrecord(texts, tmp_path / "copy", 0, None)
    shards = sorted(path.name for path in (tmp_path / "copy").glob("*-train.tfrecord-*"))
    assert len(shards) > 2
    assert shards[-1].endswith(f"-{len(shards) - 1:05}-of-{len(shards):05}")
    assert content(read(tmp_path / "copy", validation=0)) == content(texts)


def test_the_order_is_shuffled_by_the_seed(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), 40).astype(np.int64)  # classes lie side by side
    inputs = np.array([f"text {i}" for i in range(120)], dtype=object)
    dataset = Dataset("sorted", "text", NAMES, Examples(inputs, labels), None, None)
    orders = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        export_tfrecord(dataset, tmp_path / name, seed, None)
        data = Data(dataset=str(tmp_path / name), validation=0, test="train[:1]", train="train[1:]")
        orders[name] = load_dataset(data, 0, BadExamples()).train.labels.tolist()
    assert orders["a"] == orders["b"] != orders["c"]
    assert set(orders["a"][:20]) == {0, 1, 2}


@pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_an_interrupted_export_leaves_nothing_and_the_next_one_works(
    texts, tmp_path, monkeypatch, failure
) -> None:
    real, calls = export._write_split, []

    def fail_at_the_second(*arguments):
        calls.append(arguments[1])
        if len(calls) == 2:
            raise failure
        return real(*arguments)

    monkeypatch.setattr(export, "_write_split", fail_at_the_second)
    expected = UserError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        export_tfrecord(texts, tmp_path / "deep" / "copy", 0, None)
    if expected is UserError:
        assert "deep/copy: [Errno 28] No space left" in str(caught.value)
    assert calls == ["train", "test"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "deep" / "copy").exists()
    export_tfrecord(texts, tmp_path / "deep" / "copy", 0, None)
    assert content(read(tmp_path / "deep" / "copy", validation=0)) == content(texts)


def test_what_a_killed_export_left_is_not_taken_into_the_next(texts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export.shutil, "rmtree", lambda *_, **__: None)  # killed: no clean-up
    monkeypatch.setattr(export.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(UserError):
        export_tfrecord(texts, tmp_path / "copy", 0, None)
    monkeypatch.undo()
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 1 and "copy" not in left
    monkeypatch.setattr(export, "SHARD_BYTES", 60)  # other files than those that were left
    export_tfrecord(texts, tmp_path / "copy", 0, None)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert not list((tmp_path / "copy").glob("*-of-00001"))
    assert content(read(tmp_path / "copy", validation=0)) == content(texts)


@pytest.mark.parametrize("there", ["a file", "a full directory"])
def test_what_exists_is_never_overwritten(texts: Dataset, tmp_path: Path, there: str) -> None:
    target = tmp_path / "copy"
    kept = target if there == "a file" else target / "thesis.txt"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("do not touch")
    with pytest.raises(UserError, match="exists already: give the name of a new directory"):
        export_tfrecord(texts, target, 0, None)
    assert kept.read_text() == "do not touch"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


def test_an_empty_directory_is_used(texts: Dataset, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    export_tfrecord(texts, tmp_path / "copy", 0, None)
    assert (tmp_path / "copy" / "dataset_info.json").is_file()


def test_a_directory_that_cannot_be_made_is_named(texts: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/inside/copy"):
        export_tfrecord(texts, tmp_path / "file" / "inside" / "copy", 0, None)


@pytest.mark.parametrize("name", ["数据", "2024_flowers", "über", "a-b c", "..."])
def test_a_dataset_of_any_name_can_be_exported(texts, tmp_path, name: str) -> None:
    renamed = Dataset(name, "text", NAMES, texts.train, None, texts.test)
    export_tfrecord(renamed, tmp_path / "copy", 0, None)
    assert content(read(tmp_path / "copy", validation=0)) == content(texts)


@pytest.mark.parametrize("name", ["two\nlines", "two\rlines"])
def test_a_class_name_of_two_lines_is_kept_or_refused(texts, tmp_path, name: str) -> None:
    names = (name, "positive", "worse")
    renamed = Dataset("texts", "text", names, texts.train, None, texts.test)
    try:
        export_tfrecord(renamed, tmp_path / "copy", 0, None)
    except UserError:
        assert not (tmp_path / "copy").exists()
        return
    assert content(read(tmp_path / "copy", validation=0)) == content(renamed)


def test_records_hold_one_input_and_one_label(texts: Dataset, tmp_path: Path) -> None:
    export_tfrecord(texts, tmp_path / "copy", 0, None)
    path = next((tmp_path / "copy").glob("*-train.tfrecord-*"))
    for raw in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        features = tf.train.Example.FromString(raw).features.feature
        assert sorted(features) == ["label", "text"]
        assert len(features["text"].bytes_list.value) == 1
        assert len(features["label"].int64_list.value) == 1
