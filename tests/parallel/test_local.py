"""Rounds of local steps: what ranks make of their models together, and what stays their own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync
from tests.parallel.runs import image_network, images, largest_difference, train


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


def test_rounds_of_one_step_are_those_of_every_step(world):
    def trained(**options):
        keras.utils.set_random_seed(3)
        sgd = keras.optimizers.SGD(0.1)
        return train(world, image_network(), images(), sgd, steps=12, **options)

    local = trained(strategy="local", sync=Sync(every_steps=1))
    assert largest_difference(trained(), local) < 2e-6
