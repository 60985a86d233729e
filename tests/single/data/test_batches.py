"""Batches of a rank, from memory and from files, and what both owe to the plan."""

import contextlib
import io
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.config import Config
from app.data.bad import BadExamples
from app.data.batches import Batch, Feed, Loaded
from app.data.examples import Dataset, Examples
from app.data.export import export_tfrecord
from app.data.hold import hold
from app.data.order import EpochPlan, Shuffled, orders_of
from app.data.text.tokenizer import tokenizer_from
from app.data.text.vocabulary import Vocabulary
from app.decide import decide
from app.distributed.world import World
from app.errors import UserError
from app.load import LoadedData, open_dataset
from app.recipe import load

PADDING, FIRST = 0, 2


def words(examples: int) -> list[str]:
    return [f"w{i}" for i in range(examples)]


def numbered(lengths: list[int], cut: int = 100) -> Loaded:
    """Example i is `lengths[i]` times the word w<i>, with label i."""
    texts = np.array([" ".join([f"w{i}"] * n) for i, n in enumerate(lengths)], dtype=object)
    ids, _ = Vocabulary("words", 1, cut, words(len(lengths))).encode(texts)
    return Loaded(ids, np.arange(len(lengths)), ids.row_lengths().numpy())


def test_every_rank_pads_to_the_longest_text_of_the_global_batch() -> None:
    split = numbered([1, 9, 2, 3, 4, 2])
    plan = EpochPlan(np.arange(6), 3, world_size=2)
    for rank in range(2):
        widths = [batch.inputs.shape[1] for batch in Feed(split).training(plan, rank)]
        assert widths == [9, 4]


@pytest.mark.parametrize(("world_size", "passes", "seen"), [(1, 1, 0), (3, 1, 4), (2, 3, 8)])
def test_the_batches_of_a_rank_are_those_of_the_plan(
    world_size: int, passes: int, seen: int
) -> None:
    lengths = [1 + i % 5 for i in range(23)]
    split = numbered(lengths, cut=4)
    plan = EpochPlan(Shuffled(23, 1, 2), 7, world_size, passes, seen)
    for rank in range(world_size):
        shares = list(plan.shares(rank))
        batches = list(Feed(split).training(plan, rank))
        assert len(batches) == len(shares)
        for batch, share in zip(batches, shares, strict=True):
            np.testing.assert_array_equal(batch.labels, share.indices)
            assert int(batch.total) == len(share.global_indices)
            cut = [min(lengths[i], 4) for i in share.indices]
            np.testing.assert_array_equal(np.count_nonzero(batch.inputs, axis=1), cut)
            for row, i in zip(batch.inputs.numpy(), share.indices, strict=True):
                assert set(row[row != PADDING]) == {FIRST + i}


def test_an_empty_share_is_a_batch_of_no_rows() -> None:
    images = Loaded(tf.zeros((4, 2, 3, 1), tf.uint8), np.arange(4))
    plan = EpochPlan(np.arange(4), 3, world_size=2)  # the last step has one example
    for split, shape in ((numbered([5, 2, 3, 4]), (0, 4)), (images, (0, 2, 3, 1))):
        last = list(Feed(split).training(plan, rank=1))[-1]
        assert last.inputs.shape == shape
        assert last.labels.shape == (0,)


def test_evaluation_takes_every_example_once_in_order() -> None:
    split = numbered([1] * 11)
    parts = [
        np.concatenate([batch.labels for batch in Feed(split).evaluation(rank, 3, 2)])
        for rank in range(3)
    ]
    assert [len(part) for part in parts] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(11))


def test_an_augmentation_gets_the_places_of_the_examples_in_the_epoch() -> None:
    images = Loaded(tf.zeros((10, 1, 1, 1), tf.uint8), np.arange(10))
    plan = EpochPlan(Shuffled(10, 0, 0), 4, 2, examples_seen=4)

    def note(inputs, labels, positions, epoch, examples):
        return tf.cast(positions, tf.uint8), tf.one_hot(labels, 10)

    for rank in range(2):
        for batch, share in zip(
            Feed(images, note).training(plan, rank), plan.shares(rank), strict=True
        ):
            np.testing.assert_array_equal(batch.inputs, share.positions)
            np.testing.assert_array_equal(np.argmax(batch.targets, axis=1), share.indices)


class Slow:
    """A split of 1000 images whose batches are made when `workers` of them are asked for."""

    files_of = None
    labels = np.arange(1000)

    def __init__(self, workers: int):
        self.workers = workers
        self.all_here = threading.Barrier(workers)

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, rows: np.ndarray, longest: int) -> tf.Tensor:
        self.all_here.wait(timeout=60)
        return tf.zeros((len(rows), 1, 1, 1), tf.uint8)

    def longest(self, indices: np.ndarray) -> int:
        return 0


def test_as_many_batches_are_made_at_a_time_as_there_are_workers() -> None:
    plan = EpochPlan(np.arange(240), 10, 1)
    assert sum(len(batch.labels) for batch in Feed(Slow(12)).training(plan, 0)) == 240


def test_an_epoch_is_dealt_while_it_is_trained() -> None:
    asked: list[int] = []

    class Watched:
        def __len__(self) -> int:
            return 10**12

        def __getitem__(self, places: np.ndarray) -> np.ndarray:
            asked.append(len(places))
            return places % 1000

    batches = Feed(Slow(1)).training(EpochPlan(Watched(), 64, 2), rank=1)
    assert next(batches).labels.numpy().tolist() == list(range(1, 64, 2))
    batches.close()  # type: ignore[attr-defined]
    assert sum(asked) < 20_000


@pytest.mark.parametrize("blend", [False, True])
def test_batches_are_copied_to_the_gpu_of_the_rank_before_they_are_asked_for(
    monkeypatch, blend: bool
) -> None:
    here, copied, device, identity = threading.local(), [], tf.device, tf.identity

    class Gpu:
        name = "/device:GPU:0"

    @contextlib.contextmanager
    def on(name):
        here.on_gpu = name == Gpu.name
        with contextlib.nullcontext() if here.on_gpu else device(name):
            yield
        here.on_gpu = False

    def copy(value):
        if getattr(here, "on_gpu", False):
            copied.append((value.shape, threading.current_thread() is threading.main_thread()))
        return identity(value)

    def mix(inputs, labels, positions, epoch, examples):
        return inputs, tf.one_hot(labels, 10)

    images = Loaded(tf.zeros((10, 1, 1, 1), tf.uint8), np.arange(10))
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [Gpu()])
    monkeypatch.setattr(tf, "device", on)
    monkeypatch.setattr(tf, "identity", copy)
    feed = Feed(images, mix if blend else None)
    list(feed.training(EpochPlan(np.arange(10), 10, 1), 0))
    shapes = [(10, 1, 1, 1), (10,)] + [(10, 10)] * blend
    assert copied == [(shape, False) for shape in shapes]


# Both kinds of holding, and all kinds of files.


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (value, value, value)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> dict[str, Config]:
    """The same 60 images, example i of grey i, and 60 texts, as every kind of source."""
    place = tmp_path_factory.mktemp("sources")
    for index in range(60):
        path = place / "folder" / "train" / "ab"[index % 2] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(index))
    rows = [f"folder/train/{'ab'[i % 2]}/{i:02}.png,{'ab'[i % 2]}" for i in range(60)]
    (place / "list.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    pixels = np.arange(60, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    pixels = pixels.repeat(4, axis=1).repeat(6, axis=2)
    labels = np.arange(60) % 2
    images = Dataset("grey", "image", ("a", "b"), Examples(pixels, labels), image_shape=(4, 6, 3))
    export_tfrecord(images, place / "records", 0, None)
    texts = np.array([f"w{i} " * (1 + i % 5) for i in range(60)], dtype=object)
    export_tfrecord(
        Dataset("words", "text", ("a", "b"), Examples(texts, labels)), place / "texts", 0, None
    )
    common = {"data_dir": str(place), "validation": 0, "test": 0.1}
    return {
        f"{name} {hold}": load(None, {"dataset": name, "hold": hold, **common})
        for name in ("folder", "list.csv", "records", "texts")
        for hold in ("memory", "stream")
    }


def read(config: Config) -> LoadedData:
    bad = BadExamples()
    dataset = open_dataset(config, bad, World())
    plan, dataset, pixels = decide(config.data, dataset, bad, World())
    splits = hold(plan, config.data, dataset.splits, pixels)
    return LoadedData(dataset, splits, plan, bad.found, plan.notes)


@pytest.fixture(scope="module")
def opened(kept) -> dict[str, LoadedData]:
    return {name: read(config) for name, config in kept.items()}


def values(batch: Batch, data: LoadedData) -> list[str]:
    """What tells each example of a batch from all others."""
    if data.plan.tokenizer is None:
        return [str(value) for value in batch.inputs.numpy()[:, 0, 0, 0]]
    return tokenizer_from(data.plan.tokenizer).tokens_of(batch.inputs.numpy()[:, 0])


SOURCES = [
    f"{name} {hold}"
    for name in ("folder", "list.csv", "records", "texts")
    for hold in ("memory", "stream")
]


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_can_be_held_in_memory_and_streamed(opened, name: str) -> None:
    data = opened[name]
    assert data.plan.stream == name.endswith("stream")
    assert len(data.splits["train"]) == 54 and len(data.splits["test"]) == 6
    if data.plan.tokenizer is None:
        assert data.plan.image_shape == (4, 6, 3)


@pytest.mark.parametrize("name", SOURCES)
@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 40), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99), st.integers(0, 3)
)
def test_an_epoch_that_is_resumed_in_another_world_has_every_example_once(
    opened, name: str, batch: int, world: int, other_world: int, percent: int, epoch: int
) -> None:
    data = opened[name]
    split = data.splits["train"]
    order = orders_of(split.labels, split.files_of, False)(5, epoch)
    deal = "round robin" if split.files_of is None else "neighbours"
    plan = EpochPlan(order, batch, world, deal=deal)
    steps = plan.steps * percent // 100
    seen: list[str] = []
    labels: dict[str, int] = {}
    for rank in range(world):
        for number, part in enumerate(Feed(split).training(plan, rank)):
            if number < steps:
                seen += values(part, data)
                labels |= dict(zip(values(part, data), part.labels.numpy(), strict=True))
    done = min(steps * batch, len(order))
    rest = EpochPlan(order, batch, other_world, examples_seen=done, deal=deal)
    for rank in range(other_world):
        for part in Feed(split).training(rest, rank):
            seen += values(part, data)
            labels |= dict(zip(values(part, data), part.labels.numpy(), strict=True))
    assert len(seen) == 54 == len(set(seen))
    assert all(int(value.strip("w")) % 2 == label for value, label in labels.items())


@pytest.mark.parametrize("name", ["folder", "list.csv", "records", "texts"])
def test_what_is_streamed_is_what_would_be_in_memory(opened, name: str) -> None:
    memory, stream = opened[f"{name} memory"], opened[f"{name} stream"]
    assert memory.dataset.fingerprint == stream.dataset.fingerprint
    for split in ("train", "test"):
        left, right = memory.splits[split], stream.splits[split]
        for ours, theirs in zip(
            Feed(left).evaluation(0, 1, 7), Feed(right).evaluation(0, 1, 7), strict=True
        ):
            np.testing.assert_array_equal(ours.inputs, theirs.inputs)
            np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_a_file_that_vanishes_in_the_middle_of_training_is_named(kept, tmp_path: Path) -> None:
    for index in range(40):
        path = tmp_path / "folder" / "ab"[index % 2] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(index))
    keys = {"dataset": str(tmp_path / "folder"), "hold": "stream", "validation": 0, "test": 0.1}
    split = read(load(None, keys)).splits["train"]
    gone = Path(split.source.where(20))  # type: ignore[attr-defined]
    gone.unlink()
    plan = EpochPlan(np.arange(36), 4, 1)
    with pytest.raises(UserError, match=f"{gone} cannot be read"):
        list(Feed(split).training(plan, 0))
    gone.write_bytes(b"something else")
    with pytest.raises(UserError, match="can no longer be decoded"):
        list(Feed(split).training(plan, 0))
