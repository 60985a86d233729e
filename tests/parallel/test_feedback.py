"""What ranks owe to the model outlives a run, also one that goes on with more or fewer ranks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.checkpoints.checkpoint import Checkpoints
from app.distributed.horovod_world import HorovodWorld
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Wire
from app.distributed.replicas import broadcast_state, settle
from app.distributed.world import World
from app.state import Kind, TrainState

SHAPE = (48, 40)


class Run:
    """A model of one matrix, whose gradients are made up, from the newest checkpoint on."""

    def __init__(self, world: World, directory, compression: str):
        self.world, self.checkpoints = world, Checkpoints(directory, keep=9)
        keras.utils.set_random_seed(1)
        dense = keras.layers.Dense(SHAPE[1], use_bias=False, name="matrix")
        model = keras.Sequential([keras.layers.Input(SHAPE[:1]), dense], name="model")
        self.optimizer = DistributedOptimizer(
            keras.optimizers.SGD(1.0, name="sgd"),
            world=world,
            compression=compression,
            wire=Wire(topk_ratio=0.05),
            name="feedback",
        )
        self.optimizer.build(model.trainable_variables)
        self.state = TrainState(model, self.optimizer, 0)
        world.from_chief(lambda: self.checkpoints.restore_latest(self.state, world.size) and None)
        self.state.move_to(world.broadcast(self.state.position))
        broadcast_state(world, model, self.optimizer, 0, self.state.step)

    def steps(self, number: int) -> np.ndarray:
        """Take steps, each rank with other gradients, and settle; the sum of the exact means."""
        given = np.zeros(SHAPE)
        for _ in range(number):
            means = []
            for rank in range(self.world.size):
                random = np.random.default_rng([self.state.step, rank])
                means.append(random.normal(size=SHAPE).astype(np.float32))
            own = tf.constant(means[self.world.rank])
            self.optimizer.apply([own], self.state.model.trainable_variables, weight=1)
            given += np.mean(means, axis=0)
            self.state.step += 1
        settle(self.world, self.state.model, self.optimizer, number)
        return given

    def save(self) -> None:
        about = {"world_size": self.world.size}
        self.world.from_chief(lambda: self.checkpoints.save(self.state, about) and None)

    @property
    def weights(self) -> np.ndarray:
        return self.state.model.trainable_variables[0].numpy().astype(np.float64)

    @property
    def owed(self) -> np.ndarray:
        """By all ranks together; only right after they have settled."""
        (residual,) = (e.variable for e in self.state.entries if e.kind is Kind.SUMMED)
        return self.world.size * residual.numpy().reshape(SHAPE).astype(np.float64)


@pytest.mark.parametrize("compression", ["topk", "powersgd"])
def test_nothing_that_was_given_is_lost_when_the_number_of_ranks_changes(
    world, request, directory, compression
):
    """All ranks, then a pair of them or one, then all."""
    pair = request.getfixturevalue("pair") if world.size > 2 else None
    first = Run(world, directory, compression)
    began, given = first.weights, first.steps(3)
    first.save()
    owed = first.owed
    assert np.abs(owed).max() > 0.1
    if world.is_chief or (pair is not None and pair.included()):
        second = Run(HorovodWorld(pair) if pair else World(), directory, compression)
        np.testing.assert_allclose(second.owed, owed, rtol=1e-6)
        given += second.steps(2)
        second.save()
    given = world.broadcast(given)
    third = Run(world, directory, compression)
    assert third.state.step == 5
    given += third.steps(2)
    np.testing.assert_allclose(began - third.weights + third.owed, given, atol=1e-5)
