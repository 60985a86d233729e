"""All ranks decide alike about data, once per run, and a resumed run goes by that."""

import importlib
import json
import shutil
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

import app.data.export
import app.data.hold
import app.data.sources.image_files
import app.data.survey
import app.decide
import app.load
from app.data.batches import Streamed
from app.distributed.world import World
from app.errors import UserError
from app.load import load_data
from app.rundir.files import RunFiles, list_checkpoints
from app.train import train
from tests.parallel.sources import (
    CROPS,
    EPOCHS,
    EXAMPLES,
    FLOAT32_BOUND,
    STEPS,
    TESTS,
    config_of,
    image_bytes,
    opened,
)

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
    # What many ranks decided opens the same examples for one, and for all of them once more.
    by_plan = world.from_chief(lambda: summary(load_data(config, World(), data.plan)))
    again = world.gather(summary(load_data(config, world, data.plan)))
    assert [one[1:] for one in (by_plan, *again)] == [alone[1:]] * (1 + world.size)
    assert all(sorted(one[0], key=str) == sorted(alone[0], key=str) for one in (by_plan, *again))
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
    assert not load_data(config, world).plan.stream
    if world.rank == world.size - 1:
        monkeypatch.setattr(app.data.hold, "free_memory_bytes", lambda: 1_000)
    data = load_data(config, world)
    assert data.plan.stream and isinstance(data.splits["train"], Streamed)
    assert len(set(world.gather(data.plan.notes["images"]))) == 1


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
    prepare, open_, calls, found = app.load.prepare_dataset, app.load.load_dataset, [], []

    def slowly(data):
        calls.append(world.rank)
        time.sleep(0.3)
        prepare(data)
        done.touch()

    def only_then(*arguments):
        found.append(done.exists())
        return open_(*arguments)

    monkeypatch.setattr(app.load, "prepare_dataset", slowly)
    monkeypatch.setattr(app.load, "load_dataset", only_then)
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
    decode, decoded = app.data.survey.decode_images, []

    def counted(encoded, spec):
        decoded.append(len(encoded))
        return decode(encoded, spec)

    monkeypatch.setattr(app.data.survey, "decode_images", counted)
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

    monkeypatch.setattr(app.load, "prepare_dataset", fail)
    monkeypatch.setattr(app.load, "load_dataset", never)
    with pytest.raises(UserError, match="^rank 0: no network") as caught:
        load_data(config_of(place, "records memory"), world)
    assert caught.value.shared


@pytest.mark.parametrize("hold", ["memory", "stream"])
def test_the_chief_alone_builds_the_vocabulary_of_all(world, place, monkeypatch, hold):
    expected = opened(world, place, "texts memory").plan.tokenizer
    if not world.is_chief:

        def never(*arguments):
            raise AssertionError("only the chief builds it")

        monkeypatch.setattr(app.decide, "build_tokenizer", never)
    data = load_data(config_of(place, f"texts {hold}"), world)
    assert len(expected["vocabulary"]) == 11 + 12 + 1
    assert world.gather(data.plan.tokenizer) == [expected] * world.size


# From the beginning to the end


def arrays(run: Path) -> dict[str, np.ndarray]:
    path = list_checkpoints(RunFiles(run).checkpoints)[-1] / "state.safetensors"
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
        assert json.loads((run / "data_plan" / "plan.json").read_text())["stream"]
    for metrics in (expected, resumed, ended):
        assert (metrics["epoch"], metrics["step"]) == (EPOCHS, STEPS)
        assert metrics["test_examples"] == TESTS
    left, right, other = map(arrays, runs)
    assert left.keys() == right.keys() == other.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
        np.testing.assert_allclose(left[name], other[name], rtol=0, atol=FLOAT32_BOUND)
