"""What travels between ranks: always sent, the same bits every time, and small enough for fp16."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from tests.parallel.runs import image_network, images, train


def test_ranks_that_retrace_at_different_steps_exchange_at_every_step(world):
    """TensorFlow would run a collective of constants once, while it traces, on that rank alone."""
    variable = keras.Variable(np.zeros(3, np.float32), name="v")
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0), world=world)
    optimizer.build([variable])

    @tf.function
    def step(weight):  # a Python number: each new one is a new graph of constants only
        optimizer.apply([tf.fill([3], float(weight))], [variable], weight=weight)

    expected = np.zeros(3)
    for number in range(2 * world.size + 1):
        weights = np.array([1 + (number >= 2 * rank + 1) for rank in range(world.size)])
        step(int(weights[world.rank]))
        expected -= (weights**2).sum() / weights.sum()
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.int64])
@pytest.mark.parametrize("collective", ["allreduce", "allgather", "alltoall"])
def test_a_collective_of_constants_is_called_in_every_run_of_its_graph(world, collective, dtype):
    call = getattr(world, collective)

    @tf.function
    def exchange(trace: int):
        mine = tf.fill([world.size], world.rank + trace)
        return call(tf.cast(mine, dtype) * tf.constant(1, dtype), f"constants.{collective}")

    for number in range(world.size + 2):
        # Rank r traces anew at step r + 1, when the others run what they have.
        traces = np.array([int(number > rank) for rank in range(world.size)])
        everyone = np.arange(world.size) + traces
        expected = {
            "allreduce": np.full(world.size, everyone.sum()),
            "allgather": np.repeat(everyone, world.size),
            "alltoall": everyone,
        }
        received = exchange(int(traces[world.rank])).numpy()
        assert received.tolist() == expected[collective].tolist()


def test_constants_keep_their_bits(world):
    values = tf.constant([0.0, -0.0, np.nan, np.inf, 1e-45], tf.float32)
    gathered = tf.function(lambda: world.allgather(values, "bits"))().numpy()
    assert gathered.tobytes() == values.numpy().tobytes() * world.size


def test_a_tensor_has_the_same_sum_alone_and_among_others(world):
    """Horovod would join what is ready at the same time, and add ranks in another order."""
    random = np.random.default_rng(world.rank)
    sizes = [1000, 3001, 257, 5000]
    tensors = [tf.constant(random.normal(size=size), tf.float32) for size in sizes]
    together = tf.function(
        lambda: [world.allreduce(tensor, f"fusion.{i}") for i, tensor in enumerate(tensors)]
    )
    for _ in range(3):
        for index, sums in enumerate(together()):
            alone = world.allreduce(tensors[index], f"fusion.{index}")
            np.testing.assert_array_equal(sums.numpy(), alone.numpy())


@pytest.mark.parametrize("compression", ["none", "fp16"])
def test_equal_runs_of_several_buckets_end_with_equal_bits(world, compression):
    def run(*delays):
        network = image_network()
        for variable, value in zip(network.weights, weights, strict=True):
            variable.assign(value)
        time.sleep(delays[world.rank % len(delays)])
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        options = {"bucket_mb": 0.0005, "compression": compression}
        return train(world, network, images(), optimizer, steps=10, **options)

    weights = world.broadcast(image_network().get_weights())
    first, again = run(0), run(0, 0.05)
    for one, other in zip(first, again, strict=True):
        assert one.tobytes() == other.tobytes()
    for other in world.gather(first):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, other, strict=True))


def test_fp16_carries_gradients_of_any_size_and_all_ranks_repeat_what_overflows(world):
    """1e6 is beyond the scale of 1e-8, which is below float16's least number."""
    sizes = [1e-8, 1e-8, 1e6, 1e6, 0.0, 1e2]
    variable = keras.Variable(np.zeros(7, np.float32), name="v")
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0), world=world, compression="fp16")
    optimizer.build([variable])

    @tf.function
    def step(gradient, weight):
        optimizer.apply([gradient], [variable], weight=weight)

    sent = [0.0]
    for number, size in enumerate(sizes):
        empty = number == 1 and world.rank == 0
        gradient = size * np.random.default_rng([number, world.rank]).uniform(0.5, 1, 7)
        weight = 0 if empty else 1 + world.rank
        mine = np.full(7, np.nan) if empty else gradient
        variable.assign(np.zeros(7))
        step(tf.constant(mine, tf.float32), tf.constant(weight))
        values = world.gather(variable.numpy())
        weighed = np.stack(world.gather((gradient if weight else np.zeros(7)) * weight))
        mean = weighed.sum(axis=0) / sum(world.gather(weight))
        np.testing.assert_allclose(variable.numpy(), -mean, rtol=2.0**-10)
        assert all(value.tobytes() == values[0].tobytes() for value in values)
        sent.append(optimizer.telemetry.totals[1])
    # float32 first; half; half and again; half; zeros in half are not to be told from too small.
    assert (np.diff(sent) / 7).tolist() == [4, 2, 6, 2, 6, 4]
    states = world.gather([v.numpy() for v in optimizer.variables])
    for state in states:
        assert all(np.array_equal(a, b) for a, b in zip(state, states[0], strict=True))
