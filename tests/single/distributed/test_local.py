"""Local SGD between ranks that are threads, against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync
from app.distributed.strategies.averaging import slots_of
from app.state import Kind
from tests.single.distributed.threads import on_ranks

RANKS, STEPS, ROUND, RATE, MOMENTUM = 4, 5, 2, 0.1, 0.9


def by_numpy(gradients: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """The weights after each step, (steps, ranks, n). A rank without examples takes no step."""
    weights, velocity = np.ones_like(gradients[0]), np.zeros_like(gradients[0])
    count, found = np.zeros(RANKS), []
    for step in range(len(gradients)):
        takes = examples[step] > 0
        moved = MOMENTUM * velocity - RATE * gradients[step]
        velocity = np.where(takes[:, None], moved, velocity)
        weights = weights + np.where(takes[:, None], velocity, 0)
        count += examples[step]
        if (step + 1) % ROUND == 0 or step == len(gradients) - 1:
            weights = np.broadcast_to(count @ weights / count.sum(), weights.shape)
            count = np.zeros(RANKS)
        found.append(weights)
    return np.array(found)


@pytest.mark.parametrize(("compression", "within"), [("none", 1e-6), ("fp16", 1e-3)])
def test_rounds_average_models_by_examples_and_leave_momentum_alone(compression, within) -> None:
    random = np.random.default_rng(0)
    gradients = random.normal(size=(STEPS, RANKS, 6)).astype(np.float32)
    examples = random.integers(0, 5, (STEPS, RANKS)).astype(np.float32)
    variables = [keras.Variable(np.ones(6, np.float32), name="weight") for _ in range(RANKS)]

    def learn(world):
        weight = variables[world.rank]
        optimizer = DistributedOptimizer(
            keras.optimizers.SGD(RATE, momentum=MOMENTUM),
            world=world,
            compression=compression,
            strategy="local",
            sync=Sync(every_steps=ROUND),
        )
        optimizer.build([weight])
        assert [slot.lockstep_kind for slot in slots_of(optimizer.inner_optimizer)] == [
            Kind.AVERAGED
        ]
        found = []
        for step in range(STEPS):
            gradient = tf.constant(gradients[step, world.rank])
            optimizer.apply([gradient], [weight], weight=examples[step, world.rank])
            if step == STEPS - 1:
                optimizer.settle()  # a shorter round
            found.append(weight.numpy())
        own = [v for v in optimizer.variables if getattr(v, "lockstep_kind", None) is Kind.LOCAL]
        assert own and not any(np.any(variable.numpy()) for variable in own)
        return found

    found = np.array(on_ranks(RANKS, learn)).swapaxes(0, 1)
    np.testing.assert_allclose(found, by_numpy(gradients, examples), atol=within)
    assert (found[[1, 3, 4]] == found[[1, 3, 4], :1]).all()  # the same bits after each round
