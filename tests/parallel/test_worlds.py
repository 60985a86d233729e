"""Worlds that change in place: the same ranks go from one into the next, without a supervisor.

Rank 0 opens the meeting place of each world, as a launcher does. Comes last in this folder: Horovod
is not the one that horovodrun has started any more.
"""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.classifier import Classifier
from app.distributed.batch_norm import synchronised
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World
from app.elastic.member import LOST
from app.elastic.sockets import SOCKETS
from launch.worlds import Worlds
from tests.parallel.runs import largest_difference
from tests.parallel.test_batch_norm import small

HOST = "localhost"
A_MOMENT_S = 0.5  # for the other ranks to begin what will fail


@pytest.fixture(scope="module")
def worlds():
    """Those that this rank opens, as the chief."""
    return Worlds(None)


@pytest.fixture
def open_next(world, worlds):
    """Opens the next world while ranks are in this one; gives the variables of each rank."""
    if not world.may_change:
        pytest.skip("worlds over MPI do not change")
    return lambda: world.from_chief(lambda: worlds.open([HOST] * world.size))


def move(world, variables) -> None:
    world.move_out()
    world.move_into(variables)


def assert_works(world) -> None:
    assert world.gather(world.rank) == list(range(world.size))
    total = tf.function(lambda: world.allreduce(tf.ones(3), "test.worlds.works"))()
    assert total.numpy().tolist() == [world.size] * 3


def test_a_graph_of_one_world_runs_in_the_next(world, open_next):
    before = (world.rank, world.size)
    graph = tf.function(lambda x: world.allreduce(x, "test.worlds.graph"), autograph=False)
    for number in range(3):
        assert float(graph(tf.constant(float(number)))) == number * world.size
        move(world, open_next()[world.rank])
        assert (world.rank, world.size) == before
    assert_works(world)
    assert graph.experimental_get_tracing_count() == 1


def test_ranks_may_change_places(world, open_next):
    was = world.rank
    move(world, open_next()[world.size - 1 - was])
    assert world.gather(was) == list(reversed(range(world.size)))
    move(world, open_next()[was])
    assert world.rank == was
    assert_works(world)


def test_variables_are_those_of_any_rank_with_the_same_bits(world, open_next):
    own = np.random.default_rng(world.rank).normal(size=(3, 5)).astype(np.float32)
    own[0, 0] = np.nan
    variables = [keras.Variable(own), keras.Variable(np.int64(world.rank))]
    expected = world.gather(own.tobytes())[world.size - 1]
    move(world, open_next()[world.rank])
    world.broadcast_variables(variables, root=world.size - 1)
    assert variables[0].numpy().tobytes() == expected
    assert int(variables[1].numpy()) == world.size - 1


def test_a_step_with_batchnorm_of_all_ranks_that_was_traced_alone_is_one_of_the_next_world(
    world, open_next
):
    """As a newcomer of an elastic run traces it; nothing is traced anew."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.uniform(0, 255, (4 * world.size, 8, 8, 1)), rng.integers(0, 5, 4)
    labels = np.tile(labels, world.size)
    rank, following = world.rank, open_next()
    move(world, Worlds(None).alone(HOST))
    network = synchronised(small(), world)
    classifier = Classifier(network)
    classifier.compile(DistributedOptimizer(keras.optimizers.SGD(0.1), world=world))
    step = tf.function(classifier.train_step, autograph=False)
    own = slice(4 * rank, 4 * rank + 4)
    start = network.get_weights()
    step((pixels[own], labels[own]))
    network.set_weights(start)
    move(world, following[rank])
    step((pixels[own], labels[own]))
    assert step.experimental_get_tracing_count() == 1

    def alone():
        expected = Classifier(synchronised(small(), World()))
        expected.compile(DistributedOptimizer(keras.optimizers.SGD(0.1), world=World()))
        expected.train_step((pixels, labels))
        return expected.network.get_weights()

    assert largest_difference(network.get_weights(), world.from_chief(alone)) <= 1e-12


def cut_soon() -> None:
    threading.Event().wait(A_MOMENT_S)
    SOCKETS.cut()


@pytest.mark.parametrize("kind", ["graph", "objects", "sum"])
def test_one_rank_that_cuts_its_connections_ends_what_all_others_wait_in(world, open_next, kind):
    graph = tf.function(lambda: world.allreduce(tf.ones(1000), "test.worlds.cut"), autograph=False)
    collectives = {
        "graph": graph,
        "objects": lambda: world.gather(world.rank),
        "sum": lambda: world.sum(np.ones(3)),
    }
    collectives[kind]()
    move(world, open_next()[world.rank])  # where connections are watched
    variables = open_next()[world.rank]
    if world.rank == world.size - 1:
        cut_soon()
    with pytest.raises(LOST) as caught:
        collectives[kind]()
    assert "horovod" in f"{type(caught.value)} {caught.value}".lower()
    move(world, variables)
    assert_works(world)


def fails_late(world, monkeypatch, ending):
    """Exchanges whose names end so fail when the list that this gives holds True."""
    exchange, fail = world.allreduce, [False]

    def allreduce(tensor, name):
        if not name.endswith(ending):
            return exchange(tensor, name)

        def late(values):
            if fail[0] and world.rank == world.size - 1:
                cut_soon()  # the others are there by then
            return values

        later = tf.ensure_shape(tf.py_function(late, [tensor], tensor.dtype), tensor.shape)
        return exchange(later, name)

    monkeypatch.setattr(world, "allreduce", allreduce)
    return fail


@pytest.mark.full_matrix
def test_a_step_that_loses_one_of_its_buckets_changes_nothing(world, open_next, monkeypatch):
    variables = [keras.Variable(np.ones(2000, np.float32), name=name) for name in "ab"]
    inner = keras.optimizers.SGD(1.0, momentum=0.9)
    optimizer = DistributedOptimizer(inner, world=world, bucket_mb=0.008, name="test.worlds")
    optimizer.build(variables)
    fail = fails_late(world, monkeypatch, ".bucket.1")
    step = tf.function(lambda: optimizer.apply([tf.ones(2000)] * 2), autograph=False)
    step()
    move(world, open_next()[world.rank])
    everything = [*variables, *optimizer.variables, *inner.variables]
    before = [variable.numpy().tobytes() for variable in everything]
    following, fail[0] = open_next()[world.rank], True
    with pytest.raises(LOST):
        step()
    assert [variable.numpy().tobytes() for variable in everything] == before
    fail[0] = False
    move(world, following)
    step()
    assert [float(variable.numpy()[0]) for variable in variables] == pytest.approx([-1.9] * 2)
    assert int(optimizer.iterations) == 2


@pytest.mark.full_matrix
def test_statistics_of_all_ranks_do_not_move_in_a_step_that_fails(world, open_next, monkeypatch):
    fail = fails_late(world, monkeypatch, ".bucket.0")
    network = synchronised(small(), world)
    classifier = Classifier(network)
    classifier.compile(DistributedOptimizer(keras.optimizers.SGD(0.1), world=world))
    classifier.optimizer.build(classifier.trainable_variables)
    step = tf.function(classifier.train_step, autograph=False)
    pixels = np.random.default_rng(world.rank).uniform(0, 255, (4, 8, 8, 1))
    step((pixels, np.arange(4)))
    move(world, open_next()[world.rank])
    before = [variable.numpy().tobytes() for variable in network.variables]
    following, fail[0] = open_next()[world.rank], True
    with pytest.raises(LOST):
        step((pixels, np.arange(4)))
    assert [variable.numpy().tobytes() for variable in network.variables] == before
    fail[0] = False
    move(world, following)
    step((pixels, np.arange(4)))
    moved = [variable.numpy() for variable in network.variables]
    assert all(a != b.tobytes() for a, b in zip(before, moved, strict=True))
    for other in world.gather(moved):
        assert all(np.array_equal(a, b) for a, b in zip(moved, other, strict=True))
