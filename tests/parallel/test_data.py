"""What several ranks make different about data: who gets what, who decides, and that it makes no
difference to the model."""

import functools
import importlib
import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import app.build
import app.data.export
import app.data.hold
import app.data.sources.image_files
from app.build import build_optimizer, build_schedule, class_weights, load_data
from app.classifier import Classifier
from app.data.batches import Streamed
from app.data.examples import Dataset, Examples
from app.data.text.vocabulary import SPECIAL_TOKENS
from app.distributed.replicas import broadcast_state
from app.distributed.world import World
from app.errors import UserError
from app.loop import Loop
from app.recipe import load
from app.state import TrainState
from app.train import train
from tests.parallel.runs import BATCH, CLASSES, image_network, largest_difference, text_network

FLOAT32_BOUND = 2e-6  # as in test_equality.py
EXAMPLES, TESTS = 126, 12  # the last of 6 batches is a single example, as in runs.py
EPOCHS, STEPS = 2, 12
LABELS = np.random.default_rng(2).choice(CLASSES, EXAMPLES + TESTS, p=[0.5, 0.25, 0.13, 0.08, 0.04])


def pixels() -> np.ndarray:
    """Noise, uint8 (n, 8, 8, 1); the first pixel of image i is i."""
    noise = np.random.default_rng(3).integers(0, 256, (len(LABELS), 8, 8, 1)).astype(np.uint8)
    noise[:, 0, 0, 0] = np.arange(len(LABELS))
    return noise


def sentences() -> np.ndarray:
    """Texts of 2 to 11 words; the first two of text i are the digits of i."""
    rng = np.random.default_rng(4)
    texts = [f"a{i // 12} b{i % 12}" + " c" * rng.integers(0, 10) for i in range(len(LABELS))]
    return np.array(texts, dtype=object)


def image_bytes(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def dataset(name: str, kind: str, inputs: np.ndarray) -> Dataset:
    train, test = (
        Examples(inputs[part], LABELS[part]) for part in (slice(EXAMPLES), slice(EXAMPLES, None))
    )
    names = tuple(str(label) for label in range(CLASSES))
    return Dataset(name, kind, names, train, None, test, image_shape=(8, 8, 1))  # type: ignore


def write_sources(place: Path) -> None:
    """The same images as files and as records, texts as records, in shards of some 15 examples."""
    for number, image in enumerate(pixels()):
        split = "train" if number < EXAMPLES else "test"
        path = place / "folder" / split / str(LABELS[number]) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(image[:, :, 0]))
    app.data.export.SHARD_BYTES, usual = 2_500, app.data.export.SHARD_BYTES
    app.data.export.export_tfrecord(dataset("r", "image", pixels()), place / "records", 0, None)
    app.data.export.SHARD_BYTES = 1_000
    app.data.export.export_tfrecord(dataset("t", "text", sentences()), place / "texts", 0, None)
    app.data.export.SHARD_BYTES = usual


@pytest.fixture(scope="module")
def place(world, tmp_path_factory):
    """The chief's directory of sources, on every rank; the cache of indices is in it too."""
    place = world.broadcast(tmp_path_factory.mktemp("sources"))
    if world.is_chief:
        write_sources(place)
    world.barrier()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        yield place


@pytest.fixture
def directory(world, tmp_path):
    """The chief's temporary directory, on every rank."""
    return world.broadcast(tmp_path)


def config_of(place, source: str, **keys):
    """A config for "SOURCE HOLD", such as "records stream"."""
    name, hold = source.split()
    model = "bag" if name == "texts" else "cnn"
    common = {"dataset": str(place / name), "hold": hold, "model": model, "validation": 0}
    how = {"optimizer": "sgd", "learning_rate": 0.05, "learning_rate_scaling": "none"}
    size = {"epochs": EPOCHS, "global_batch_size": BATCH, "schedule": "constant", "seed": 3}
    return load(None, {**common, **how, **size, **keys})


@functools.cache
def opened(world, place, source: str):
    data = load_data(config_of(place, source), world)
    assert data.held.stream == source.endswith("stream")
    return data


def loop_of(world, config, train_split, network, callbacks=(), save=Path) -> Loop:
    """The application's loop over a split, from the chief's weights; seeds differ by rank."""
    keras.utils.set_random_seed(11 + world.rank)
    weights = None
    if config.training.imbalance == "class_weights":
        weights = class_weights(train_split.labels, CLASSES)
    classifier = Classifier(network(), config.training.label_smoothing, weights)
    schedule = build_schedule(config, world.size)
    optimizer = build_optimizer(config, schedule, world)
    classifier.compile(optimizer)
    optimizer.build(classifier.trainable_variables)
    state = TrainState(classifier, optimizer, config.training.seed)
    broadcast_state(world, classifier, optimizer, state.seed, 0)
    return Loop(config, world, state, schedule, {"train": train_split}, [], save, callbacks)


def trained(world, config, train_split, network) -> list[np.ndarray]:
    """The trainable variables after two epochs."""
    loop = loop_of(world, config, train_split, network)
    loop.run()
    assert loop.state.step == STEPS
    return [variable.numpy() for variable in loop.classifier.trainable_variables]


# N ranks equal one rank

CROPS = {"flip": "horizontal", "crop_padding": 2}
ALL_CHANGES = {**CROPS, "auto_augment": "trivialaugment", "random_erasing": 0.5}
UNEVEN = {"shard_by": "dirichlet", "dirichlet_alpha": 0.1}
SAME_TRAINING: dict[str, tuple[str, dict[str, Any]]] = {
    "augmented": ("folder memory", ALL_CHANGES),
    "label shards": (
        "folder stream",
        {"shard_by": "label", "imbalance": "class_weights", "label_smoothing": 0.1},
    ),
    "dirichlet shards": ("records memory", {**UNEVEN, **CROPS, "backward_passes_per_step": 2}),
    "balanced": ("records stream", {"imbalance": "balanced_sampling", "random_erasing": 0.5}),
    "streamed records": ("records stream", CROPS),
    "streamed texts": ("texts stream", {}),
}


# Rotations by 45 degrees and others depend on where in its batch an image is: trivial.py takes
# tf.cos and tf.sin, whose last bit is another one at the end of a batch.


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, marks=pytest.mark.full_matrix if case in ("augmented", "balanced") else []
        )
        for case in SAME_TRAINING
    ],
)
def test_n_ranks_end_where_one_rank_in_memory_ends(world, place, case):
    source, keys = SAME_TRAINING[case]
    config = config_of(place, source, **keys)
    network = text_network if source.startswith("texts") else image_network
    split = opened(world, place, source).splits["train"]
    weights = trained(world, config, split, network)

    in_memory = opened(world, place, source.replace("stream", "memory")).splits["train"]

    def alone():
        in_memory.files_of = split.files_of  # the order is that of the stream
        try:
            return trained(World(), config, in_memory, network)
        finally:
            in_memory.files_of = None

    reference = world.from_chief(alone)
    assert largest_difference(weights, reference) <= FLOAT32_BOUND
    for other in world.gather(weights):
        assert all(np.array_equal(a, b) for a, b in zip(weights, other, strict=True))


def test_mixed_images_on_uneven_and_empty_shares_stay_finite(world, place):
    keys = {**UNEVEN, "mixup": 0.2, "cutmix": 1.0}
    config = config_of(place, "folder memory", **keys)
    split = opened(world, place, "folder memory").splits["train"]
    losses = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.append(float(logs["loss"]))

        def on_epoch_end(self, epoch, logs=None):
            losses.append(float(logs["loss"]))

    loop = loop_of(world, config, split, image_network, [Look()])
    sizes = [len(batch.labels) for batch, _ in loop._batches()]
    loop.run()
    assert len(losses) == STEPS + EPOCHS and np.isfinite(losses).all()
    weights = [variable.numpy() for variable in loop.classifier.trainable_variables]
    assert all(np.isfinite(weight).all() for weight in weights)
    everywhere = np.array(world.gather(sizes))
    assert everywhere.min() == 0 and everywhere.sum() == EXAMPLES
    assert everywhere.sum(1).min() * 1.5 < everywhere.sum(1).max()


# Every example once


def numbers_of(batch, data) -> list[int]:
    """The number of each example, which its input carries."""
    if data.vocabulary is None:
        return batch.inputs.numpy()[:, 0, 0, 0].tolist()
    first, second = (
        [int(data.vocabulary[token - SPECIAL_TOKENS][1:]) for token in column]
        for column in batch.inputs.numpy()[:, :2].T
    )
    return [12 * a + b for a, b in zip(first, second, strict=True)]


def got(world, loop, data, steps=None) -> list[int]:
    """The numbers of the examples that all ranks of `world` get, in the first so many steps."""
    own = []
    for number, (batch, _) in enumerate(loop._batches()):
        if steps is None or number < steps * loop.passes:
            own += numbers_of(batch, data)
            assert batch.labels.numpy().tolist() == LABELS[numbers_of(batch, data)].tolist()
    return [number for rank in world.gather(own) for number in rank]


ONCE: dict[str, tuple[str, dict[str, Any]]] = {
    "memory": ("folder memory", {}),
    "image files": ("folder stream", {}),
    "records": ("records stream", {}),
    "texts": ("texts stream", {}),
    "label shards": ("records stream", {"shard_by": "label"}),
    "dirichlet shards": ("folder stream", UNEVEN),
    "passes": ("records stream", {**UNEVEN, "backward_passes_per_step": 3}),
}


@pytest.mark.parametrize("case", ONCE)
def test_every_example_comes_once_and_also_if_an_epoch_is_resumed(world, place, case):
    source, keys = ONCE[case]
    config, data = config_of(place, source, **keys), opened(world, place, source)
    split = data.splits["train"]
    loop = loop_of(world, config, split, image_network)
    assert sorted(got(world, loop, data)) == list(range(EXAMPLES))

    begun = got(world, loop, data, steps=2)
    assert len(begun) == 2 * BATCH
    loop.state.examples_seen = 2 * BATCH
    assert sorted(begun + got(world, loop, data)) == list(range(EXAMPLES))

    def alone():
        other = loop_of(World(), config, split, image_network)
        other.state.examples_seen = 2 * BATCH
        return got(World(), other, data)

    assert sorted(begun + world.from_chief(alone)) == list(range(EXAMPLES))


def test_a_stream_hands_out_its_own_order_and_no_rank_gets_the_same_example(world, place):
    data = opened(world, place, "records stream")
    assert len(np.unique(data.splits["train"].files_of)) > 4
    loop = loop_of(world, config_of(place, "records stream"), data.splits["train"], image_network)
    own = [number for batch, _ in loop._batches() for number in numbers_of(batch, data)]
    assert own != sorted(own)
    counts = [len(rank) for rank in world.gather(own)]
    assert max(counts) - min(counts) <= STEPS // EPOCHS


# All ranks decide alike


@pytest.fixture(scope="module")
def damaged(world, place):
    """Two folders of 100 images, and the bad ones: "cut" has JPEGs cut off behind their header
    (found when decoded) to train and to test on, "damaged" an empty file too."""
    bad = ["train/b/08.jpg", "test/a/93.jpg", "train/a/07.jpg"]
    folders = {"cut": bad[:2], "damaged": bad}
    if world.is_chief:
        noise = np.random.default_rng(5).integers(0, 256, (100, 16, 16, 3)).astype(np.uint8)
        for number, image in enumerate(noise):
            split = "train" if number < 90 else "test"
            for folder in folders:
                path = place / folder / split / "ba"[number % 2] / f"{number:02}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image_bytes(image, "JPEG"))
        for folder, names in folders.items():
            for name, share in zip(names, (0.9, 0.9, 0), strict=False):
                content = (place / folder / name).read_bytes()
                (place / folder / name).write_bytes(content[: int(share * len(content))])
    world.barrier()
    return {folder: [str(place / folder / name) for name in folders[folder]] for folder in folders}


@pytest.mark.parametrize("source", ["cut memory", "cut stream", "damaged memory"])
def test_a_bad_file_ends_all_ranks_with_what_one_rank_says(world, place, damaged, source):
    config = config_of(place, source)

    def alone():
        with pytest.raises(UserError) as caught:
            load_data(config, World())
        return str(caught.value)

    expected = world.from_chief(alone)
    with pytest.raises(UserError) as caught:
        load_data(config, world)
    assert caught.value.shared
    assert world.gather(str(caught.value)) == [expected] * world.size
    first, reason = (0, "truncated") if source.startswith("cut") else (2, "zero bytes")
    assert expected.startswith(f"{damaged[source.split()[0]][first]}: {reason}")


@pytest.mark.parametrize("hold", ["memory", "stream"])
def test_all_ranks_skip_the_same_files_and_list_each_once(world, place, damaged, hold):
    config = config_of(place, f"damaged {hold}", on_bad="skip")
    data = load_data(config, world)
    alone = world.from_chief(lambda: summary(load_data(config, World())))
    assert world.gather(summary(data)) == [alone] * world.size
    assert sorted(bad.where for bad in data.bad) == sorted(damaged["damaged"])
    assert (len(data.splits["train"]), len(data.splits["test"])) == (88, 9)


def summary(data):
    """What all ranks must agree on: what is bad, and the files, labels and pixels of each split."""
    held = {name: source.paths.tolist() for name, source in data.dataset.splits.items()}
    found = {
        name: (split.labels.tolist(), int(split.inputs(np.arange(len(split)), 0).numpy().sum()))
        for name, split in data.splits.items()
    }
    return data.bad, held, found


FAILURES = {
    "listed": ("folder memory", "os.path.getsize"),
    "surveyed": ("folder memory", "app.data.sources.image_files._read_header"),
    "decoded": ("folder memory", "app.data.sources.image_files._read_bytes"),
    "checked": ("folder stream", "app.data.sources.image_files._read_bytes"),
}


# Run, it would leave the ranks in different collectives.


@pytest.mark.parametrize(
    ("when", "place_of_file"),
    [
        pytest.param("listed", "first"),
        pytest.param("listed", "later"),
        pytest.param("surveyed", "first"),
        pytest.param("surveyed", "later"),
        ("decoded", "first"),
        ("decoded", "later"),
        pytest.param("checked", "first"),
        ("checked", "later"),
    ],
)
def test_a_file_that_one_rank_cannot_read_ends_all_and_names_the_rank(
    world, place, monkeypatch, when, place_of_file
):
    source, function = FAILURES[when]
    files = opened(world, place, "folder memory").dataset.splits["train"]
    # Where files are dealt to ranks, the one of rank 0 or the second of the last rank.
    failing = world.size - 1 if place_of_file == "later" else 0
    refused = files.where(failing + world.size if place_of_file == "later" else 0)
    module, _, name = function.rpartition(".")
    usual = getattr(importlib.import_module(module), name)

    def read(path):
        if world.rank == failing and path == refused:
            raise PermissionError(13, "Permission denied", path)
        return usual(path)

    monkeypatch.setattr(function, read)
    with pytest.raises(UserError) as caught:
        load_data(config_of(place, source), world)
    assert caught.value.shared
    assert str(caught.value).startswith(f"rank {failing}: {refused} cannot be read")


def test_all_ranks_stream_if_one_host_is_short_of_memory(world, place, monkeypatch):
    config = config_of(place, "records auto")
    assert not load_data(config, world).held.stream
    if world.rank == world.size - 1:
        monkeypatch.setattr(app.data.hold, "free_memory_bytes", lambda: 1_000)
    data = load_data(config, world)
    assert data.held.stream and isinstance(data.splits["train"], Streamed)
    assert len(set(world.gather(data.held.why))) == 1


# Done once


@pytest.fixture
def hosts(world, monkeypatch) -> list[int]:
    """The ranks, on two hosts as far as they know; returns the host of each."""
    hosts = [rank * 2 // world.size for rank in range(world.size)]
    monkeypatch.setattr(world, "local_rank", world.rank - hosts.index(hosts[world.rank]))
    return hosts


def test_one_rank_of_each_host_prepares_while_the_others_wait(
    world, place, directory, monkeypatch, hosts
):
    done = directory / f"prepared-{hosts[world.rank]}"
    prepare, open_, calls, found = app.build.prepare_dataset, app.build.load_dataset, [], []

    def slowly(data):
        calls.append(world.rank)
        time.sleep(0.3)
        prepare(data)
        done.touch()

    def only_then(*arguments):
        found.append(done.exists())
        return open_(*arguments)

    monkeypatch.setattr(app.build, "prepare_dataset", slowly)
    monkeypatch.setattr(app.build, "load_dataset", only_then)
    load_data(config_of(place, "records memory"), world)
    assert world.gather(calls) == [
        [rank] if rank == hosts.index(host) else [] for rank, host in enumerate(hosts)
    ]
    assert world.gather(found) == [[True]] * world.size


@pytest.mark.parametrize("alone", [False, True])
def test_the_ranks_of_a_host_decode_each_image_once_and_share_it(
    world, place, monkeypatch, alone, request
):
    hosts = request.getfixturevalue("hosts") if alone and world.size == 2 else [0] * world.size
    decode, decoded = app.data.hold.decode_images, []

    def counted(encoded, spec):
        decoded.append(len(encoded))
        return decode(encoded, spec)

    monkeypatch.setattr(app.data.hold, "decode_images", counted)
    data = load_data(config_of(place, "records memory"), world)
    assert sum(world.gather(sum(decoded))) == (EXAMPLES + TESTS) * len(set(hosts))
    left = opened(world, place, "records stream").splits
    for name, split in data.splits.items():
        rows = np.arange(len(split))
        np.testing.assert_array_equal(split.inputs(rows, 0), left[name].inputs(rows, 0))


def test_a_preparation_that_fails_ends_all_ranks(world, place, monkeypatch):
    def fail(data):
        raise UserError("no network")

    def never(*arguments):
        raise AssertionError("loaded what was not prepared")

    monkeypatch.setattr(app.build, "prepare_dataset", fail)
    monkeypatch.setattr(app.build, "load_dataset", never)
    with pytest.raises(UserError, match="^rank 0: no network") as caught:
        load_data(config_of(place, "records memory"), world)
    assert caught.value.shared


@pytest.mark.parametrize("hold", ["memory", "stream"])
def test_the_chief_alone_builds_the_vocabulary_of_all(world, place, monkeypatch, hold):
    expected = opened(world, place, "texts memory").vocabulary
    if not world.is_chief:

        def never(*arguments):
            raise AssertionError("only the chief builds it")

        monkeypatch.setattr(app.build, "build_vocabulary", never)
    data = load_data(config_of(place, f"texts {hold}"), world)
    assert len(expected) == 11 + 12 + 1
    assert world.gather(data.vocabulary) == [expected] * world.size


# From the beginning to the end


def arrays(run: Path) -> dict[str, np.ndarray]:
    path = run / "checkpoints" / f"epoch-{EPOCHS:04d}" / "state.safetensors"
    return safetensors.numpy.load_file(path)


@pytest.mark.full_matrix
def test_a_streamed_run_ends_the_same_when_resumed_where_memory_would_do_and_by_one_rank(
    world, place, directory, monkeypatch
):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    keys = {"width": 4, **CROPS, "random_erasing": 0.5, "imbalance": "class_weights"}
    runs = [directory / name for name in ("whole", "parted", "by one")]
    whole, parted, by_one = (
        config_of(place, "records auto", **keys, run_dir=str(run)) for run in runs
    )
    with monkeypatch.context() as patch:
        patch.setattr(app.data.hold, "free_memory_bytes", lambda: 1_000)
        expected = train(whole, world=world)
        train(parted, world=world, callbacks=[Stop()])
    if world.is_chief:
        shutil.copytree(runs[1], runs[2])
    resumed = train(parted, world=world, resume=True)
    ended = world.from_chief(lambda: train(by_one, world=World(), resume=True))
    for run in runs:
        assert json.loads((run / "dataset.json").read_text())["hold"] == "stream"
    for metrics in (expected, resumed, ended):
        assert (metrics["epoch"], metrics["step"]) == (EPOCHS, STEPS)
        assert metrics["test_examples"] == TESTS
    left, right, other = map(arrays, runs)
    assert left.keys() == right.keys() == other.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
        np.testing.assert_allclose(left[name], other[name], rtol=0, atol=FLOAT32_BOUND)
