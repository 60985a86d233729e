"""Rounds of local steps: what ranks make of their models together, and what stays their own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from app.distributed.guard import agree
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync
from app.stop import Stopped
from app.train import train as trained
from tests.parallel.killed import assert_same_bits, config_of, normed, run_killed
from tests.parallel.runs import image_network, images, largest_difference, train
from tests.parallel.test_stop import Ask


class Toy:
    """A weight (3,) per rank that steps by SGD on gradients that each rank gives, by `tf.function`;
    `apply` takes the gradient, the examples behind it and the loss of this rank."""

    def __init__(self, world, inner=None, sync=None, **options):
        self.world = world
        self.weight = keras.Variable(np.ones(3, np.float32), name="weight")
        self.optimizer = DistributedOptimizer(
            inner or keras.optimizers.SGD(1.0),
            world=world,
            strategy="local",
            sync=sync or Sync(every_steps=2),
            **options,
        )
        self.optimizer.build([self.weight])
        self.step = tf.function(self._step, autograph=False)

    def _step(self, gradient, examples, loss):
        self.optimizer.apply([gradient], [self.weight], weight=examples, loss=loss)
        return self.optimizer.signals.heard()

    def apply(self, gradient, examples=1.0, loss=0.0):
        heard = self.step(tf.fill([3], float(gradient)), tf.constant(examples), tf.constant(loss))
        return heard.numpy().tolist()

    @property
    def value(self):
        return float(self.weight.numpy()[0])

    def settle(self):
        self.optimizer.settle()
        values = self.world.gather(self.weight.numpy().tobytes())
        assert len(set(values)) == 1
        return self.value


def test_a_round_moves_by_the_mean_of_what_ranks_moved_by_weighed_by_examples(world):
    toy = Toy(world)
    mine, examples = float(world.rank + 1), 1.0 + world.rank
    toy.apply(mine, examples)
    assert toy.value == 1 - mine  # nothing was exchanged
    toy.apply(mine, examples)
    weights = np.arange(world.size) + 1.0
    expected = 1 - 2 * (weights * weights).sum() / weights.sum()
    assert toy.value == pytest.approx(expected)
    toy.apply(mine, examples)
    assert toy.settle() == pytest.approx(1.5 * expected - 0.5)  # a shorter round


@pytest.mark.full_matrix
def test_rounds_of_one_step_are_those_of_every_step(world):
    def after_steps(**options):
        keras.utils.set_random_seed(3)
        sgd = keras.optimizers.SGD(0.1)
        return train(world, image_network(), images(), sgd, steps=6, **options)

    local = after_steps(strategy="local", sync=Sync(every_steps=1))
    assert largest_difference(after_steps(), local) < 2e-6


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"compression": "fp16"}, id="fp16"),
        pytest.param({"passes": 2, "batch": 26}, id="accumulated", marks=pytest.mark.full_matrix),
    ],
)
def test_all_ranks_have_the_same_bits_after_a_round(world, options):
    keras.utils.set_random_seed(3)
    adam, sync = keras.optimizers.Adam(0.01), Sync(every_steps=3)
    values = train(
        world, image_network(), images(), adam, steps=6, strategy="local", sync=sync, **options
    )
    assert len(set(world.gather(b"".join(value.tobytes() for value in values)))) == 1


@pytest.mark.full_matrix
def test_before_its_epoch_ranks_exchange_at_every_step(world):
    toy = Toy(world, sync=Sync(every_steps=2, from_epoch=0.5))
    mean = np.mean(np.arange(world.size) + 1.0)
    for step in range(1, 4):
        assert toy.apply(world.rank + 1)[0] == 0
        assert toy.value == pytest.approx(1 - step * mean)
    toy.optimizer.move_to(0.5)
    assert toy.apply(world.rank + 1)[0] == -1
    assert toy.value == pytest.approx(1 - 3 * mean - world.rank - 1)
    toy.apply(world.rank + 1)
    assert toy.settle() == pytest.approx(1 - 5 * mean)


@pytest.mark.full_matrix
def test_a_bad_step_is_skipped_on_its_rank_and_told_at_the_end_of_the_round(world):
    toy = Toy(world)
    is_bad = world.rank == 0
    assert toy.apply(np.nan if is_bad else 1.0) == [-1, -1, -1]
    assert toy.value == (1.0 if is_bad else 0.0)
    assert int(toy.optimizer.iterations) == (0 if is_bad else 1)
    assert toy.apply(1.0) == [0, 1, 0]
    # One step of rank 0, two of each other rank.
    assert toy.settle() == pytest.approx(1 - (4 * world.size - 3) / (2 * world.size - 1))
    assert int(toy.optimizer.iterations) == 2
    assert (toy.optimizer.signals.first_bad() is not None) == is_bad
    toy.apply(1.0)
    assert toy.apply(1.0) == [0, 0, 0]


def test_a_wish_to_stop_is_heard_at_the_end_of_a_round(world):
    toy = Toy(world)
    if world.rank == 0:
        toy.optimizer.signals.ask_to_stop()
    assert toy.apply(1.0) == [-1, -1, -1]
    assert toy.apply(1.0) == [1, 0, 0]


@pytest.mark.full_matrix
def test_a_rank_without_examples_takes_no_step(world):
    toy = Toy(world)
    for _ in range(2):
        toy.apply(1.0 + world.rank, examples=0.0 if world.rank else 3.0)
    assert toy.settle() == pytest.approx(-1.0)
    for _ in range(2):
        toy.apply(1.0, examples=0.0)  # nobody has any
    assert toy.settle() == pytest.approx(-1.0)


@pytest.mark.full_matrix
def test_an_outer_momentum_is_that_of_nesterov_over_rounds(world):
    toy = Toy(world, sync=Sync(every_steps=2, outer_learning_rate=0.7, outer_momentum=0.9))
    expected, velocity = 1.0, 0.0
    for gradient in (0.5, -0.25, 1.0):
        for _ in range(2):
            toy.apply(gradient)
        velocity = 0.9 * velocity - 2 * gradient
        expected += 0.7 * (-2 * gradient + 0.9 * velocity)
        assert toy.settle() == pytest.approx(expected, rel=1e-5)


def test_slots_stay_local_until_a_commit_point_and_are_averaged_there_by_examples(world):
    toy = Toy(world, keras.optimizers.SGD(1.0, momentum=0.9))
    slot = next(v for v in toy.optimizer.inner_optimizer.variables if "momentum" in v.path)
    for _ in range(2):
        toy.apply(world.rank + 1.0, examples=world.rank + 1.0)
    own = -1.9 * (world.rank + 1)
    np.testing.assert_allclose(slot.numpy(), own, rtol=1e-6)  # the round has left it
    model = keras.Model()
    model.weight = toy.weight
    assert agree(world, model, toy.optimizer, 2.0 * (world.rank + 1), 0, 2) == []
    ranks = np.arange(world.size) + 1.0
    np.testing.assert_allclose(slot.numpy(), -1.9 * (ranks**2).sum() / ranks.sum(), rtol=1e-6)


@pytest.mark.full_matrix
def test_the_loss_scale_is_a_ranks_own_in_a_round_and_then_the_lowest(world):
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=8.0)
    toy = Toy(world, scaled)
    is_bad = world.rank == 0
    toy.apply(np.inf if is_bad else 8.0)
    assert float(scaled.dynamic_scale) == (4 if is_bad else 8)
    assert toy.apply(4.0 if is_bad else 8.0) == [0, 0, 0]  # by the loss scale
    assert float(scaled.dynamic_scale) == 4 and int(scaled.step_counter) == 1
    assert toy.settle() == pytest.approx(1 - (4 * world.size - 3) / (2 * world.size - 1))
    assert int(toy.optimizer.iterations) == 2


KEYS = {"sync": "local", "sync_every_steps": 2, "optimizer": "sgd", "momentum": 0.9}


@pytest.mark.full_matrix
def test_a_run_in_rounds_that_is_killed_ends_with_the_same_bits(world, directory, monkeypatch):
    monkeypatch.setattr(models, "build_image_model", lambda name, *a, **k: normed(*a, **k))
    whole = trained(config_of(directory / "whole", **KEYS), world=world)
    parted = run_killed(config_of(directory / "parted", **KEYS), world, [("before", 4)])
    assert parted["step"] == whole["step"] == 10
    with world.together():
        if world.is_chief:
            assert_same_bits(directory / "whole", directory / "parted")


@pytest.mark.full_matrix
@pytest.mark.parametrize(
    "keys",
    [
        {"precision": "mixed_float16", "compression": "fp16"},
        {"backward_passes_per_step": 2, "optimizer": "adam"},
        {"sync_every_steps": None, "commit_every_steps": None, "local_epochs": 2,
         "shard_by": "dirichlet", "global_batch_size": None, "per_rank_batch_size": 150},
        {"outer_momentum": 0.5, "outer_learning_rate": 0.7, "sync_from_epoch": 1.0},
    ],
    ids=["half", "accumulated", "federated", "outer"],
)  # fmt: skip
def test_runs_in_rounds_resume_with_the_same_bits(world, directory, keys):
    keys = {**KEYS, **keys}
    whole = trained(config_of(directory / "whole", **keys), world=world)
    # Inside a round of federated averaging ranks have taken different numbers of steps.
    first_epoch = ("epoch end", whole["step"] // 2)
    kills = [first_epoch] if "local_epochs" in keys else [("before", 8)]
    parted = run_killed(config_of(directory / "parted", **keys), world, kills)
    assert parted["step"] == whole["step"]
    with world.together():
        if world.is_chief:
            assert_same_bits(directory / "whole", directory / "parted")


@pytest.mark.full_matrix
def test_all_ranks_stop_at_the_end_of_a_round(world, directory):
    keys = {**KEYS, "commit_every_steps": 1000}
    with pytest.raises(Stopped, match="at step 4, with"):  # heard with step 2, read at step 3
        trained(config_of(directory, **keys), world=world, callbacks=[Ask(world, 1)])


@pytest.mark.full_matrix
def test_federated_averaging_takes_every_example_of_every_shard(world, directory):
    keys = {"sync": "local", "local_epochs": 2, "shard_by": "dirichlet", "epochs": 3}
    keys |= {"global_batch_size": None, "commit_every_steps": None, "per_rank_batch_size": 50}
    result = trained(config_of(directory, **keys), world=world)
    assert result["examples_trained_on"] == 3 * 2 * 1294
