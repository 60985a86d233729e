"""A run that is killed and resumed ends as if nothing had been; at another world size it goes on
with the examples that are left."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from app.build import build_optimizer, build_schedule
from app.checkpoints.checkpoint import Checkpoints
from app.checkpoints.keeper import Keeper
from app.classifier import Classifier
from app.data.batches import Loaded
from app.distributed.replicas import broadcast_state
from app.distributed.world import World
from app.loop import Loop
from app.recipe import load
from app.state import TrainState
from app.train import train
from tests.parallel.killed import (
    TEXTS,
    Kill,
    Killed,
    assert_same_bits,
    checkpoints,
    config_of,
    normed,
    run_killed,
    write_texts,
)
from tests.single.pretrained.bert_files import SIZES, write_encoder

# Of 5 steps an epoch, with commit points after 2, 4, 5, 6, 8 and 10.
EVERYWHERE = [
    ("after", 1),  # before there is anything to go on from
    ("after", 3),  # between commit points
    ("before", 5),  # right after one, and before the short batch
    ("after", 10),  # before the last commit point
]
SOMEWHERE = [("after", 3), ("epoch end", 5)]


def full(*values):
    return pytest.param(*values, marks=pytest.mark.full_matrix)


@pytest.fixture
def directory(world, tmp_path):
    """The chief's temporary directory, on every rank."""
    return world.broadcast(tmp_path)


def check(world, directory, kills, **keys):
    whole = train(config_of(directory / "whole", **keys), world=world)
    parted = run_killed(config_of(directory / "parted", **keys), world, kills)
    assert parted["step"] == whole["step"] == 10
    with world.together():
        if world.is_chief:
            assert_same_bits(directory / "whole", directory / "parted")


def test_batchnorm_and_dropout_end_with_the_same_bits(world, directory, monkeypatch):
    """With the moving average of both, and what early stopping has seen."""
    monkeypatch.setattr(models, "build_image_model", lambda name, *a, **k: normed(*a, **k))
    keys = {"ema_examples": 500, "early_stopping_epochs": 5}
    check(world, directory, [("before", 5), ("before", 7)], **keys)
    with world.together():
        if world.is_chief:
            last = checkpoints(directory / "whole")["step-00000010"]
            assert last["average/made_at_example"] == 2 * 1294
            assert last["average/statistics_made_at_example"] == 2 * 1294
            assert last["early_stopping/loss"][2] == 1  # the second epoch is kept before it is seen
            for name in ("hidden_kernel", "norm_moving_mean"):
                assert np.abs(last[f"average/{name}"]).max() > 0


@pytest.mark.parametrize(
    ("ranks", "kills", "keys"),
    [
        full(2, EVERYWHERE, {"dropout": 0.2}),
        full(2, SOMEWHERE, {"imbalance": "balanced_sampling", "precision": "mixed_float16"}),
        full(2, SOMEWHERE, {"dataset": "texts.csv", "model": "bag", **TEXTS}),
        (3, SOMEWHERE, {"backward_passes_per_step": 2}),
        (3, SOMEWHERE, {"bucket_mb": 0.002, "compression": "fp16"}),
        (3, SOMEWHERE, {"shard_by": "dirichlet", "mixup": 0.4, "cutmix": 1.0, "crop_padding": 1}),
    ],
    ids=["cnn", "balanced", "texts", "accumulation", "buckets", "uneven"],
)
def test_a_run_that_is_killed_ends_with_the_same_bits(world, directory, ranks, kills, keys):
    if world.size != ranks:
        pytest.skip(f"is tested with {ranks} ranks, to save time")
    if "dataset" in keys:
        table = world.from_chief(lambda: write_texts(directory / keys["dataset"]))
        keys = {**keys, "dataset": str(table)}
    check(world, directory, kills, **keys)


EXAMPLES, BATCH = 101, 10  # 11 steps an epoch


class Files(Loaded):
    """A split whose examples lie in files, so that ranks get neighbours."""

    files_of = np.arange(EXAMPLES) // 7


def loop_of(world, directory, holds, callbacks=(), **keys):
    """A loop over images that say which they are, and what it has trained on, filled as it runs.

    The state is that of the newest checkpoint, if there is one.
    """
    keys = {"global_batch_size": BATCH, "epochs": 1, "commit_every_steps": 2, **keys}
    config = load(None, keys)
    pixels = np.zeros((EXAMPLES, 2, 2, 1), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(EXAMPLES)
    split = holds(tf.constant(pixels), np.arange(EXAMPLES) % 3)
    images = keras.Input((2, 2, 1), dtype="uint8")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    classifier = Classifier(keras.Model(images, keras.layers.Dense(3, name="logits")(flat)))
    schedule = build_schedule(config, world.size)
    optimizer = build_optimizer(config, schedule, world)
    classifier.compile(optimizer)
    optimizer.build(classifier.trainable_variables)
    state = TrainState(classifier, optimizer, 0)
    checkpoints = Checkpoints(directory, 9)
    world.from_chief(lambda: checkpoints.restore_latest(state))
    state.move_to(world.broadcast(state.position))
    broadcast_state(world, classifier, optimizer, 0, state.step)
    committed, trained = [], []

    class Notes(Keeper):
        """Of every rank: notes what it has trained on; the chief's writes at once."""

        def keep(self, state, about, epoch_ends):
            committed.extend(trained)
            trained.clear()
            if world.is_chief:
                self.checkpoints.save(state, about)
            return 0.0

    learn = classifier.train_step

    def note(batch):
        tf.numpy_function(lambda ids: trained.extend(ids.tolist()), [batch.inputs[:, 0, 0, 0]], [])
        return learn(batch)

    classifier.train_step = note
    keeper = Notes(directory, config.run)
    loop = Loop(config, world, state, schedule, {"train": split}, [], keeper, callbacks)
    return loop, committed


@pytest.mark.parametrize(
    ("holds", "keys"),
    [
        (Loaded, {}),
        (Files, {"backward_passes_per_step": 3}),
        (Loaded, {"shard_by": "dirichlet"}),
        (Loaded, {"global_batch_size": None, "per_rank_batch_size": 3}),
    ],
    ids=["dealt", "neighbours-accumulated", "owned", "per-rank"],
)
@pytest.mark.parametrize("kill", [("before", 5), ("after", 5)])
def test_at_another_world_size_every_example_comes_once(world, directory, holds, keys, kill):
    first, before = loop_of(world, directory, holds, [Kill(*kill)], **keys)
    with pytest.raises(Killed):
        first.run()
    done = [one for rank in world.gather(before) for one in rank]
    assert done  # the steps since the last commit point are lost, and done again

    def alone():
        loop, after = loop_of(World(), directory, holds, **keys)
        loop.run()
        assert loop.state.epoch == 1
        return after

    counts = collections.Counter(done + world.from_chief(alone))
    assert counts == dict.fromkeys(range(EXAMPLES), 1)


# 5 steps with a frozen encoder, then 5 with all of it, whose optimizer counts from 0 again.
TWO_BLOCKS = {**SIZES, "num_hidden_layers": 2}
UNFREEZING = [("epoch end", 5)]


@pytest.mark.full_matrix
def test_a_run_that_unfreezes_ends_with_the_same_bits(world, directory):
    """Killed between the commit point before it unfreezes and its next step."""
    if world.size != 2:
        pytest.skip("is tested with 2 ranks, to save time")
    place = world.from_chief(lambda: write_encoder(directory / "encoder", TWO_BLOCKS))
    table = world.from_chief(lambda: write_texts(directory / "texts.csv"))
    keys = {"dataset": str(table), "model": "bert", "pretrained": str(place), "max_tokens": 16}
    keys |= {"freeze": "encoder", "unfreeze_epoch": 1, "layer_decay": 0.5, "dropout": 0.1}
    keys |= {"compression": "powersgd", **TEXTS}
    whole = train(config_of(directory / "whole", **keys), world=world)
    parted = run_killed(config_of(directory / "parted", **keys), world, UNFREEZING)
    assert parted["step"] == whole["step"] == 10
    with world.together():
        if world.is_chief:
            assert_same_bits(directory / "whole", directory / "parted")
            arrays = checkpoints(directory / "whole")
            start, unfrozen, end = (arrays[f"step-{n:08d}"] for n in (2, 5, 10))
            kernel = "block01/query/kernel"
            assert np.array_equal(start[kernel], unfrozen[kernel])
            assert not np.array_equal(start[kernel], end[kernel])
            assert not [name for name in unfrozen if "block01" in name and "adam" in name]
            assert [name for name in end if "block01" in name and "adam" in name]
