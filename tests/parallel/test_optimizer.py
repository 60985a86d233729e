"""What DistributedOptimizer does between ranks that no single process can show."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer


def one_step(world, gradient, *, weight=None, start=10.0, inner=None, total_weight=None, **options):
    """The variable after one `apply` in a graph; SGD with rate 1 subtracts the gradient."""
    variable = keras.Variable(np.full(3, start, np.float32), name="v")
    optimizer = DistributedOptimizer(inner or keras.optimizers.SGD(1.0), world=world, **options)
    optimizer.build([variable])

    @tf.function
    def step():
        optimizer.apply([gradient], [variable], weight=weight, total_weight=total_weight)

    step()
    return variable.numpy(), optimizer, step


def test_ranks_count_by_their_weights(world):
    mine = tf.fill([3], float(world.rank))
    value, _, _ = one_step(world, mine, weight=world.rank + 1)
    ranks = np.arange(world.size)
    mean = (ranks * (ranks + 1)).sum() / (ranks + 1).sum()
    np.testing.assert_allclose(value, 10.0 - mean, rtol=1e-6)


def test_without_weights_all_ranks_count_the_same(world):
    mine = tf.fill([3], float(world.rank))
    value, _, _ = one_step(world, mine)
    np.testing.assert_allclose(value, 10.0 - np.arange(world.size).mean(), rtol=1e-6)


def test_average_ignores_the_weights(world):
    mine = tf.fill([3], float(world.rank))
    value, _, _ = one_step(world, mine, weight=world.rank + 1, op="average")
    np.testing.assert_allclose(value, 10.0 - np.arange(world.size).mean(), rtol=1e-6)


def test_a_known_total_saves_the_collective_that_would_find_it(world):
    mine = tf.fill([3], float(world.rank))
    total = sum(range(1, world.size + 1))
    value, _, known = one_step(world, mine, weight=world.rank + 1, total_weight=total)
    expected, _, unknown = one_step(world, mine, weight=world.rank + 1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert len(_allreduces(known)) == 1  # gradients and signals in one
    assert len(_allreduces(unknown)) == 2


def test_a_rank_without_examples_may_hold_nan(world):
    empty = world.rank == world.size - 1
    mine = tf.fill([3], float("nan") if empty else 2.0)
    value, _, _ = one_step(world, mine, weight=0 if empty else 4)
    np.testing.assert_allclose(value, 8.0, rtol=1e-6)


def test_no_example_anywhere_means_no_update(world):
    value, optimizer, _ = one_step(world, tf.fill([3], float("nan")), weight=0)
    assert value.tolist() == [10.0] * 3
    assert int(optimizer.iterations) == 0


def test_fp16_gradients_travel_as_half_and_the_count_as_float(world):
    mine = tf.fill([3], 1.0 + world.rank)
    _, optimizer, step = one_step(world, mine, weight=world.rank + 1, compression="fp16")
    step()
    assert optimizer.telemetry.totals[1] == 3 * 4 + 3 * 2  # the first in float32
    half, single = tf.float16.as_datatype_enum, tf.float32.as_datatype_enum
    assert _in_branches(step) == {
        ("HorovodAllreduce", single),
        ("HorovodAlltoall", half),
        ("HorovodAllgather", half),
    }


def second_step(world, gradient, **options):
    """The variable, from 0, after one step whose scale is known from the step before."""
    _, optimizer, step = one_step(world, gradient, compression="fp16", **options)
    (variable,) = optimizer._trainable_variables
    variable.assign(np.zeros(3))
    step()
    return variable.numpy()


def test_one_fp16_exchange_errs_by_at_most_its_roundings(world):
    """Each share is rounded once and so is the sum, by 2^-11 of its size."""
    mine = tf.constant(np.random.default_rng(world.rank).normal(size=3), tf.float32)
    value = second_step(world, mine)
    shares = np.stack(world.gather(mine.numpy().astype(np.float64))) / world.size
    rounded = np.abs(shares).sum(axis=0) + np.abs(shares.sum(axis=0))
    error = np.abs(value + shares.sum(axis=0))
    assert (error <= 1.001 * 2.0**-11 * rounded).all()
    assert error.any()


def test_fp16_does_not_overflow_where_a_sum_of_gradients_would(world):
    mine = tf.fill([3], 40_000.0)  # two of them are beyond float16's 65504
    value = second_step(world, mine, weight=3)
    np.testing.assert_allclose(value, -40_000.0, rtol=1e-3)


def test_an_overflow_on_one_rank_makes_all_ranks_skip_the_step(world):
    mine = tf.fill([3], float("inf") if world.rank == 0 else 1.0)
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=1024.0)
    value, optimizer, _ = one_step(world, mine, inner=inner)
    assert value.tolist() == [10.0] * 3
    assert float(inner.dynamic_scale.numpy()) == 512.0
    assert world.gather(int(optimizer.iterations)) == [0] * world.size


@pytest.mark.parametrize("compression", ["none", "fp16"])
def test_gathered_slices_are_summed_where_ranks_share_a_row(world, compression):
    table = keras.Variable(np.zeros((6, 2), np.float32), name="table")
    optimizer = DistributedOptimizer(
        keras.optimizers.Adam(0.1), world=world, compression=compression, sparse_as_dense=False
    )
    optimizer.build([table])
    dense = keras.Variable(np.zeros((6, 2), np.float32), name="dense")
    plain = keras.optimizers.Adam(0.1)
    rows = [0, world.rank + 1, 0]  # row 0 twice on every rank

    @tf.function
    def step():
        slices = tf.IndexedSlices(tf.ones((3, 2)), tf.constant(rows), tf.constant([6, 2]))
        optimizer.apply([slices], [table], weight=3)

    mean = np.zeros((6, 2), np.float32)
    for rank in range(world.size):
        for row in [0, rank + 1, 0]:
            mean[row] += 1.0 / world.size
    for _ in range(3):
        step()
        plain.apply([tf.constant(mean)], [dense])
    bound = 1e-6 if compression == "none" else 1e-3
    np.testing.assert_allclose(table.numpy(), dense.numpy(), atol=bound)


def test_the_exchange_happens_only_at_every_kth_pass(world):
    variable = keras.Variable(np.zeros(2, np.float32), name="v")
    optimizer = DistributedOptimizer(
        keras.optimizers.SGD(1.0), world=world, backward_passes_per_step=2
    )
    optimizer.build([variable])

    @tf.function
    def step(value, weight):
        optimizer.apply([tf.fill([2], value)], [variable], weight=weight)

    step(tf.constant(1.0), tf.constant(1.0))
    assert variable.numpy().tolist() == [0.0, 0.0]
    step(tf.constant(4.0 + world.rank), tf.constant(3.0))
    ranks = np.arange(world.size)
    mean = (1.0 * 1 + (4.0 + ranks) * 3).sum() / (4 * world.size)
    np.testing.assert_allclose(variable.numpy(), -mean, rtol=1e-6)
    assert int(optimizer.iterations) == 1


def test_a_rank_that_has_made_more_optimizers_still_finds_the_others(world):
    for _ in range(world.rank):
        DistributedOptimizer(keras.optimizers.SGD(1.0), world=world)
    value, _, _ = one_step(world, tf.ones(3))
    assert value.tolist() == [9.0] * 3


class Bfloat16Rounding:
    """A user's own compressor: bfloat16's precision, in the float32 that the wire knows."""

    def compress(self, tensor):
        return tf.cast(tf.cast(tensor, tf.bfloat16), tf.float32), tensor.dtype

    def decompress(self, tensor, context):
        return tf.cast(tensor, context)


def test_a_compressor_of_the_users_own_is_used(world):
    mine = tf.constant([1.001, 2.003, 3.005])
    value, _, _ = one_step(world, mine, start=0.0, compression=Bfloat16Rounding())
    share = tf.cast(tf.cast(mine / world.size, tf.bfloat16), tf.float32).numpy()
    np.testing.assert_allclose(value, -share * world.size, rtol=1e-6)


def test_horovods_own_compressor_is_accepted(world):
    import horovod.tensorflow as hvd

    mine = tf.fill([3], 1.0 + world.rank)
    value, _, step = one_step(world, mine, compression=hvd.Compression.fp16, op=hvd.Average)
    np.testing.assert_allclose(value, 10.0 - (1 + np.arange(world.size)).mean(), rtol=1e-3)
    assert {op.get_attr("T") for op in _allreduces(step)} == {
        tf.float32,
        tf.float16,
    }  # signals, gradients


def test_a_variable_without_a_gradient_is_left_alone(world):
    used = keras.Variable(np.zeros(2, np.float32), name="used")
    unused = keras.Variable(np.ones(2, np.float32), name="unused")
    optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0), world=world)
    optimizer.build([used, unused])
    with pytest.warns(UserWarning, match="unused"):
        optimizer.apply([tf.ones(2), None], [used, unused])
    assert used.numpy().tolist() == [-1.0, -1.0]
    assert unused.numpy().tolist() == [1.0, 1.0]


def _allreduces(step):
    graph = step.get_concrete_function().graph
    return [op for op in graph.get_operations() if op.type == "HorovodAllreduce"]


def _in_branches(step):
    """(type, dtype) of all collectives of a function, those in its conditionals included."""
    definition = step.get_concrete_function().graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    return {(n.op, n.attr["T"].type) for n in nodes if n.op.startswith("Horovod") and "T" in n.attr}
