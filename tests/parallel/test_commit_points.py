"""A run that is killed and resumed ends as if nothing had been; at another world size it goes on
with the examples that are left."""

import pytest

import models
from app.train import train
from tests.parallel.killed import assert_same_bits, config_of, normed, run_killed

# Of 5 steps an epoch, with commit points after 2, 4, 5, 6, 8 and 10.
FEW = [("before", 5), ("after", 8)]
EVERY = [
    ("after", 1),
    ("before", 3),
    ("after", 3),
    ("after", 4),
    ("before", 5),
    ("epoch end", 5),
    ("before", 7),
    ("after", 8),
    ("after", 10),
]


@pytest.fixture
def directory(world, tmp_path):
    """The chief's temporary directory, on every rank."""
    return world.broadcast(tmp_path)


def check(world, directory, kills, **keys):
    whole = train(config_of(directory / "whole", **keys), world=world)
    parted = run_killed(config_of(directory / "parted", **keys), world, kills)
    assert parted["step"] == whole["step"] == 10
    if world.is_chief:
        assert_same_bits(directory / "whole", directory / "parted")
    world.barrier()
    assert parted["test_loss"] == whole["test_loss"]


def test_batchnorm_and_dropout(world, directory, monkeypatch):
    monkeypatch.setattr(models, "build_image_model", lambda name, *a, **k: normed(*a, **k))
    check(world, directory, FEW)


@pytest.mark.full_matrix
@pytest.mark.parametrize(
    "keys",
    [
        {"dropout": 0.2},
        {"backward_passes_per_step": 2, "global_batch_size": 300},
        {"bucket_mb": 0.002, "compression": "fp16"},
        {"shard_by": "dirichlet", "mixup": 0.4, "cutmix": 1.0, "crop_padding": 1},
        {"imbalance": "balanced_sampling", "precision": "mixed_float16"},
        {"dataset": "pydocs", "model": "bag", "global_batch_size": 900, "dropout": 0.2},
    ],
    ids=["cnn", "accumulation", "buckets", "uneven", "balanced", "texts"],
)
def test_a_run_that_is_killed_anywhere_ends_with_the_same_bits(world, directory, keys):
    check(world, directory, EVERY, **keys)
