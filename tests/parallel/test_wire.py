"""What travels between ranks: always sent, the same bits every time, and small enough for fp16."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer


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


def two_variables(world, **options):
    """(variables, an optimizer of theirs, a step in a graph for each list of gradients)."""
    variables = [keras.Variable(np.zeros(3, np.float32), name=name) for name in ("one", "two")]
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0), world=world, **options)
    optimizer.build(variables)

    @tf.function
    def step(first: bool, second: bool):
        given = [tf.ones(3) if there else None for there in (first, second)]
        optimizer.apply(given, variables, weight=1)

    return variables, step


@pytest.mark.parametrize("passes", [1, 2])
def test_a_gradient_that_one_rank_lacks_is_an_error_on_all_ranks(world, passes):
    last = world.size - 1
    _, step = two_variables(world, backward_passes_per_step=passes)
    with pytest.raises(ValueError, match=f"'two' is none on rank {last} and dense on rank 0"):
        step(True, world.rank != last)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_later_trace_that_lacks_a_gradient_is_an_error_and_no_hang(world):
    variables, step = two_variables(world)
    step(True, True)
    if world.rank == world.size - 1:  # the others are not asked: they do not trace anew
        with pytest.raises(ValueError, match="'two' is none now and dense before"):
            step(True, False)
    step(True, True)
    for variable in variables:
        np.testing.assert_allclose(variable.numpy(), -2.0)


def test_rows_on_one_rank_and_a_dense_gradient_on_another_are_an_error(world):
    table = keras.Variable(np.zeros((4, 2), np.float32), name="table")
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0), world=world)
    rows = tf.IndexedSlices(tf.ones((1, 2)), tf.constant([1]), tf.constant([4, 2]))
    with pytest.raises(ValueError, match="'table' is dense on rank 1 and rows on rank 0"):
        optimizer.apply([tf.ones((4, 2)) if world.rank == 1 else rows], [table], weight=1)


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
    shapes = [(40, 25), (3001,), (257,), (50, 100)]
    variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in shapes]
    optimizer = DistributedOptimizer(
        keras.optimizers.SGD(0.1, momentum=0.9),
        world=world,
        compression=compression,
        bucket_mb=0.001,
    )
    optimizer.build(variables)
    state = [*variables, *optimizer.variables]
    start = [variable.numpy() for variable in state]

    @tf.function
    def step(gradients):
        optimizer.apply(gradients, variables, weight=world.rank + 1)

    def run(delays):
        for variable, value in zip(state, start, strict=True):
            variable.assign(value)
        random = np.random.default_rng(world.rank)
        for delay in delays:
            gradients = [tf.constant(random.normal(size=s), tf.float32) for s in shapes]
            time.sleep(delay)  # another rank is late, so other buckets are ready together
            step(gradients)
        return [variable.numpy().tobytes() for variable in state]

    first = run(np.zeros(8))
    again = run(np.random.default_rng(world.rank).uniform(0, 0.02, 8))
    assert first == again
    assert world.gather(first) == [first] * world.size


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
