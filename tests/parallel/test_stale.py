"""Strategies that apply late what ranks exchange: "overlapped" and "delayed"."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync
from app.distributed.replicas import settle
from app.distributed.world import World
from app.state import SAVED, state_variables
from tests.parallel.runs import HalfNow, image_network, images, largest_difference, train

SHAPE = (4, 3)
START = np.linspace(-1, 1, 12, dtype=np.float32).reshape(SHAPE)
STALE = ("overlapped", "delayed")


def full(value):
    return pytest.param(value, marks=pytest.mark.full_matrix)


class Toy:
    """A weight per rank; its steps have the gradient and the examples of (rank, step), and pull
    towards 0, so that they depend on where the weight is."""

    def __init__(self, world, strategy, every_steps=3, **options):
        self.world, self.number = world, 0
        self.weight = keras.Variable(START, name="weight")
        self.optimizer = DistributedOptimizer(
            keras.optimizers.SGD(0.1, momentum=0.9),
            world=world,
            strategy=strategy,
            sync=Sync(every_steps=every_steps),
            **options,
        )
        self.optimizer.build([self.weight])
        self.traced = tf.function(self._step, autograph=False)

    def _step(self, push, examples):
        gradient = self.weight.value + push
        self.optimizer.apply([gradient], [self.weight], weight=examples)
        return self.optimizer.signals.heard()

    def steps(self, count):
        """Take so many; how many ranks wanted to stop, as heard in each."""
        heard = []
        for _ in range(count):
            push = tf.constant(push_of(self.world.rank, self.number))
            examples = tf.constant(examples_of(self.world.rank, self.number))
            heard.append(float(self.traced(push, examples)[0]))
            self.number += 1
        return heard

    def settle(self):
        settle(self.world, keras.Model(), self.optimizer, self.number)
        return self.weight.numpy()

    @property
    def saved(self):
        entries = state_variables(keras.Model(), self.optimizer)
        return [self.weight] + [entry.variable for entry in entries if entry.kind in SAVED]

    @property
    def bits(self):
        return [variable.numpy().tobytes() for variable in self.saved]


def push_of(rank, number):
    return np.random.default_rng([rank, number]).normal(size=SHAPE).astype(np.float32)


def examples_of(rank, number):
    return float((rank + number) % 3 + rank % 2)  # some are 0


def weights_of(ranks, numbers):
    examples = np.array([sum(examples_of(rank, n) for n in numbers) for rank in range(ranks)])
    return examples / examples.sum()


def late(ranks, steps):
    """What SGD with momentum makes of the mean gradient of the step before."""
    weight, velocity = START.astype(np.float64), 0.0
    pending = None
    for number in range(steps + 1):
        of_ranks = [weight + push_of(rank, number) for rank in range(ranks)]
        if pending is not None:
            velocity = 0.9 * velocity - 0.1 * pending
            weight = weight + velocity
        pending = np.tensordot(weights_of(ranks, [number]), of_ranks, 1)
    return weight


def a_round_late(ranks, steps, every_steps):
    """The definition of "delayed": snapshots of a round, whose mean is merged after the next."""
    weights = [START.astype(np.float64)] * ranks
    velocities = [0.0] * ranks
    begun, moved, mean, numbers = START.astype(np.float64), None, None, []

    def merge():
        if moved is None:
            return weights
        return [weight + mean - own for weight, own in zip(weights, moved, strict=True)]

    for number in range(steps):
        for rank in range(ranks):
            if examples_of(rank, number):
                gradient = weights[rank] + push_of(rank, number)
                velocities[rank] = 0.9 * velocities[rank] - 0.1 * gradient
                weights[rank] = weights[rank] + velocities[rank]
        numbers.append(number)
        if len(numbers) == every_steps:
            weights = merge()
            begun = begun if mean is None else begun + mean
            moved = [weight - begun for weight in weights]
            mean = np.tensordot(weights_of(ranks, numbers), moved, 1)
            weights, numbers = list(weights), []
    weights = merge()
    begun = begun if mean is None else begun + mean
    rest = [weight - begun for weight in weights]
    return begun + (np.tensordot(weights_of(ranks, numbers), rest, 1) if numbers else 0)


def test_overlapped_takes_the_steps_of_sgd_with_gradients_that_are_one_step_old(world):
    toy = Toy(world, "overlapped")
    toy.steps(6)
    toy.optimizer.signals.ask_to_stop()
    assert toy.steps(1) == [world.size]  # heard in the same step
    assert len(set(world.gather(toy.weight.numpy().tobytes()))) == 1  # equal after each step
    np.testing.assert_allclose(toy.settle(), late(world.size, 7), atol=1e-5)
    assert int(toy.optimizer.iterations) == 7


@pytest.mark.full_matrix
def test_overlapped_on_n_ranks_ends_where_one_rank_ends(world):
    def run(within):
        keras.utils.set_random_seed(3)
        sgd = keras.optimizers.SGD(0.05, momentum=0.9)
        return train(within, image_network(), images(), sgd, steps=15, strategy="overlapped")

    alone = world.from_chief(lambda: run(World()))
    assert largest_difference(run(world), alone) < 2e-6


@pytest.mark.parametrize("steps", [full(2), full(6), 8, full(10)])
def test_delayed_is_local_sgd_whose_averages_come_a_round_late(world, steps):
    toy = Toy(world, "delayed")
    toy.steps(steps)
    np.testing.assert_allclose(toy.settle(), a_round_late(world.size, steps, 3), atol=1e-5)


@pytest.mark.parametrize("compression", ["none", full("fp16"), full("lossy")])
@pytest.mark.parametrize("strategy", ["overlapped", full("delayed")])
def test_after_settling_all_ranks_have_the_same_bits_and_a_repeated_run_too(
    world, strategy, compression
):
    def run():
        toy = Toy(world, strategy, compression=HalfNow() if compression == "lossy" else compression)
        toy.steps(8)
        toy.settle()
        return toy.bits

    rows = world.gather(run())
    assert all(row == rows[0] for row in rows)
    assert run() == rows[0]


@pytest.mark.parametrize("strategy", STALE)
def test_a_run_goes_on_from_a_commit_point_with_the_same_bits(world, strategy):
    whole, resumed = (Toy(world, strategy, compression=HalfNow()) for _ in range(2))
    whole.steps(6)
    whole.settle()
    for mine, theirs in zip(resumed.saved, whole.saved, strict=True):
        mine.assign(theirs.value)
    resumed.number = whole.number
    for toy in (whole, resumed):
        toy.steps(7)
        toy.settle()
    assert whole.bits == resumed.bits


@pytest.mark.full_matrix
def test_delayed_tells_of_a_wish_to_stop_where_an_average_is_merged(world):
    toy = Toy(world, "delayed")
    if world.rank == world.size - 1:
        toy.optimizer.signals.ask_to_stop()
    heard = toy.steps(6)
    assert heard == [-1.0, -1.0, 0.0, -1.0, -1.0, 1.0]
    toy.settle()


@pytest.mark.full_matrix
@pytest.mark.parametrize("strategy", STALE)
def test_accumulated_passes_make_steps_that_come_late(world, strategy):
    toy = Toy(world, strategy, backward_passes_per_step=2)
    toy.steps(13)
    toy.settle()
    assert int(toy.optimizer.iterations) == 7
    rows = world.gather(toy.bits)
    assert all(row == rows[0] for row in rows)
