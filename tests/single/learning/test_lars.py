"""LARS against its paper's definition in NumPy, alone and under the exchanges between ranks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.reducers import COMPRESSIONS
from app.learning.lars import Lars
from tests.single.distributed.threads import on_ranks

RATE, MOMENTUM, DECAY, TRUST, STEPS = 8.0, 0.9, 0.05, 0.001, 4
NAMES = ("kernel", "bias", "gamma", "beta")


def variables(seed: int = 0, dtype: str = "float32") -> list[keras.Variable]:
    random = np.random.default_rng(seed)
    # Large enough to be compressed.
    shapes = {"kernel": (64, 20), "bias": (20,), "gamma": (20,), "beta": (20,)}
    return [
        keras.Variable(random.normal(size=shapes[name]), dtype=dtype, name=name) for name in NAMES
    ]


def gradients(step: int, dtype: type = np.float32) -> list[np.ndarray]:
    random = np.random.default_rng(100 + step)
    return [random.normal(size=v.shape).astype(dtype) for v in variables()]


def by_numpy(weights: list[np.ndarray], decay: float = DECAY) -> list[np.ndarray]:
    """The weights after all steps, as in algorithm 1 of the paper; biases and BatchNorm by SGD."""
    weights = [w.astype(np.float64) for w in weights]
    velocity = [np.zeros_like(w) for w in weights]
    for step in range(STEPS):
        for i, (name, g) in enumerate(zip(NAMES, gradients(step), strict=True)):
            local, b = 1.0, 0.0
            if name == "kernel":
                b, norm = decay, np.linalg.norm(weights[i])
                local = TRUST * norm / (np.linalg.norm(g) + b * norm)
            velocity[i] = MOMENTUM * velocity[i] + RATE * local * (g + b * weights[i])
            weights[i] = weights[i] - velocity[i]
    return weights


def lars(**options) -> Lars:
    return Lars(RATE, momentum=MOMENTUM, **{"weight_decay": DECAY, **options})


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_its_steps_are_those_of_the_paper(decay) -> None:
    ours = variables()
    expected = by_numpy([v.numpy() for v in ours], decay)
    optimizer = lars(weight_decay=decay or None)
    step = tf.function(lambda given: optimizer.apply(given, ours))
    optimizer.build(ours)
    for number in range(STEPS):
        step([tf.constant(g) for g in gradients(number)])
    for variable, value in zip(ours, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=2e-5, atol=2e-6)
    assert int(optimizer.iterations) == STEPS


@pytest.mark.parametrize("zero", ["weights", "gradient"])
def test_without_a_norm_the_step_is_that_of_sgd(zero) -> None:
    start = np.zeros((2, 2)) if zero == "weights" else np.ones((2, 2))
    kernel = keras.Variable(start, dtype="float32", name="kernel")
    gradient = np.full((2, 2), 0.0 if zero == "gradient" else 3.0, np.float32)
    Lars(0.5, momentum=0.0, weight_decay=0.1).apply([tf.constant(gradient)], [kernel])
    np.testing.assert_allclose(kernel.numpy(), start - 0.5 * (gradient + 0.1 * start), rtol=1e-6)


def test_a_gradient_in_float16_whose_square_is_too_large_for_it_has_its_norm() -> None:
    kernel = keras.Variable(np.ones((4, 4)), dtype="float32", name="kernel")
    Lars(1.0, momentum=0.0).apply([tf.fill((4, 4), tf.constant(2000.0, tf.float16))], [kernel])
    np.testing.assert_allclose(kernel.numpy(), 1 - TRUST, rtol=1e-6)  # |w| / |g| * g is 1


def test_weights_in_float16_have_norms_in_float32() -> None:
    kernel = keras.Variable(np.full((40, 40), 100.0), dtype="float16", name="kernel")
    Lars(100.0, momentum=0.0).apply([tf.ones((40, 40), tf.float16)], [kernel])
    np.testing.assert_allclose(kernel.numpy(), 100 - 10, rtol=1e-3)


def test_rows_that_come_twice_count_as_their_sum() -> None:
    dense, sparse = (keras.Variable(np.ones((3, 2)), name="kernel") for _ in range(2))
    rows = tf.IndexedSlices(tf.ones((2, 2)), tf.constant([1, 1]), tf.constant([3, 2]))
    for variable, given in ((dense, tf.convert_to_tensor(rows)), (sparse, rows)):
        Lars(5.0, momentum=0.5).apply([given], [variable])
    np.testing.assert_array_equal(dense.numpy(), sparse.numpy())
    assert (dense.numpy() != 1).any()


def test_it_is_rebuilt_from_its_config() -> None:
    config = keras.saving.serialize_keras_object(lars(global_clipnorm=2.0, trust=0.01))
    again = keras.saving.deserialize_keras_object(config)
    assert (again.momentum, again.decay, again.trust) == (MOMENTUM, DECAY, 0.01)
    assert again.global_clipnorm == 2.0 and again.weight_decay is None


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name != "topk"])
def test_ranks_take_one_step_in_float32_under_every_reducer(compression) -> None:
    """With gradients of the ranks that differ, and whose weighted mean is that of one rank."""
    ours = [variables() for _ in range(2)]
    start = [v.numpy() for v in ours[0]]

    def learn(world):
        own, sign = ours[world.rank], 1 if world.rank else -1
        optimizer = DistributedOptimizer(lars(), world=world, compression=compression)
        optimizer.build(own)
        for step in range(STEPS):
            random = np.random.default_rng(step)
            apart = [sign * random.normal(size=g.shape) * 0.1 for g in gradients(step)]
            given = [
                tf.constant(g + a / (1 + world.rank), tf.float32)
                for g, a in zip(gradients(step), apart, strict=True)
            ]
            optimizer.apply(given, own, weight=1 + world.rank)
        assert {v.dtype for v in optimizer.inner_optimizer._velocities} == {"float32"}
        return [v.numpy() for v in own]

    one, other = on_ranks(2, learn)
    expected = by_numpy(start)
    for a, b, value, before in zip(one, other, expected, start, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all() and np.abs(a - before).max() > 1e-3
        if compression in ("none", "fp16"):
            within = np.abs(value).max() * (1e-5 if compression == "none" else 1e-3)
            np.testing.assert_allclose(a, value, atol=within)


def test_topk_is_refused() -> None:
    with pytest.raises(ValueError, match="topk"):
        DistributedOptimizer(lars(), compression="topk")
