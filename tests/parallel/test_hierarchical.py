"""Hosts in which ranks exchange first: as every step, on any layout. Hosts are names here."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync
from app.distributed.replicas import settle
from app.errors import UserError
from tests.parallel import runs

# Names of the hosts of ranks 0, 1, ... for each number of ranks.
LAYOUTS = {
    2: ["aa", "ab"],
    3: ["aaa", "abc"],
    4: ["aabb", "abab", "abba"],
}


@pytest.fixture(params=range(3))
def hosts(request, world, monkeypatch):
    """A layout; `world.by_host()` finds it."""
    layouts = LAYOUTS.get(world.size, [])
    if request.param >= len(layouts):
        pytest.skip(f"no more layouts of {world.size} ranks")
    layout = layouts[request.param]
    by_host = world.by_host
    monkeypatch.setattr(world, "by_host", lambda: by_host(layout), raising=False)
    return layout


def test_ranks_find_those_of_their_host_and_of_their_number(world, hosts):
    local, across = world.by_host()
    mine = hosts[world.rank]
    neighbours = [rank for rank, host in enumerate(hosts) if host == mine]
    number = neighbours.index(world.rank)
    assert (local.size, local.rank) == (len(neighbours), number)
    ranks = tf.constant([world.rank])
    assert local.allgather(ranks, "test.local").numpy().tolist() == neighbours
    seen = [hosts[:rank].count(host) for rank, host in enumerate(hosts)]
    counterparts = [rank for rank, before in enumerate(seen) if before == number]
    assert (across.size, across.rank) == (len(counterparts), counterparts.index(world.rank))
    assert across.allgather(ranks, "test.across").numpy().tolist() == counterparts
    assert world.by_host()[0].size == local.size  # again: nothing is made twice


def test_hosts_with_unequal_numbers_of_ranks_are_an_error_that_counts_them(world):
    if world.size < 3:
        pytest.skip("two hosts of two ranks are equal")
    layout = ["big"] * (world.size - 1) + ["small"]
    with pytest.raises(UserError, match=f"{world.size - 1} on big, 1 on small"):
        world.by_host(layout)


SHAPES = [(3, 3, 2, 4), (5,), (), (7, 3)]
# Examples of each rank in each step; some have none.
WEIGHTS = [[3, 1, 2, 5], [0, 4, 0, 1], [2, 2, 2, 2]]


def trained(world, **options):
    """The variables after a few steps from one model."""
    random = np.random.default_rng(0)
    variables = [keras.Variable(random.normal(size=s), name=f"v{i}") for i, s in enumerate(SHAPES)]
    optimizer = DistributedOptimizer(
        keras.optimizers.SGD(0.1, momentum=0.9), world=world, **options
    )
    optimizer.build(variables)
    step = tf.function(lambda g, w: optimizer.apply(g, variables, weight=w))
    random = np.random.default_rng([1, world.rank])
    for weights in WEIGHTS:
        weight = weights[world.rank]
        # Without examples a gradient may be anything.
        given = [random.normal(size=shape) / bool(weight) for shape in SHAPES]
        step([tf.constant(one, tf.float32) for one in given], tf.constant(weight))
    return [variable.numpy() for variable in variables]


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("compression", "tolerance"), [("none", 1e-6), ("fp16", 1e-3)])
def test_trains_as_every_step_does(world, hosts, compression, tolerance):
    flat = trained(world)
    by_host = trained(world, strategy="hierarchical", compression=compression)
    assert runs.largest_difference(flat, by_host) < tolerance
    everyone = world.gather([variable.tobytes() for variable in by_host])
    assert all(one == everyone[0] for one in everyone)


@pytest.mark.full_matrix
@pytest.mark.parametrize("compression", ["none", "int8"])
def test_hosts_take_steps_of_their_own_and_average_at_the_end_of_a_round(world, hosts, compression):
    """Gradients do not depend on the model and ranks count the same in all steps, so the average of
    models is the model of averaged gradients."""
    variable = keras.Variable(np.zeros((40, 30), np.float32), name="v")
    optimizer = DistributedOptimizer(
        keras.optimizers.SGD(1.0),
        world=world,
        strategy="hierarchical",
        sync=Sync(every_steps=2),
        compression=compression,
    )
    optimizer.build([variable])
    step = tf.function(lambda g, w: optimizer.apply([g], [variable], weight=w))
    weights = np.arange(world.size) + 1.0
    exact, own = np.zeros((40, 30)), np.zeros((40, 30))
    mates = [rank for rank in range(world.size) if hosts[rank] == hosts[world.rank]]
    tolerance = 1e-5 if compression == "none" else 0.2
    for number in range(5):
        given = [
            np.random.default_rng([number, rank]).normal(size=(40, 30))
            for rank in range(world.size)
        ]
        step(tf.constant(given[world.rank], tf.float32), tf.constant(weights[world.rank]))
        exact -= np.tensordot(weights, given, 1) / weights.sum()
        own -= np.tensordot(weights[mates], [given[rank] for rank in mates], 1) / sum(
            weights[mates]
        )
        if number % 2:  # a round has ended
            np.testing.assert_allclose(variable.numpy(), exact, atol=tolerance)
            exact = variable.numpy().astype(float)
            own = exact.copy()
        else:
            np.testing.assert_allclose(variable.numpy(), own, atol=1e-5)
    optimizer.settle()
    np.testing.assert_allclose(variable.numpy(), exact, atol=tolerance)
    everyone = world.gather(variable.numpy().tobytes())
    assert all(one == everyone[0] for one in everyone)


@pytest.mark.full_matrix
def test_equal_runs_end_with_equal_bits_and_settling_leaves_equal_state(world, hosts):
    def run():
        variable = keras.Variable(np.zeros((5, 3), np.float32), name="v")
        optimizer = DistributedOptimizer(
            keras.optimizers.SGD(1.0), world=world, strategy="hierarchical", compression="fp16"
        )
        model = keras.Sequential([keras.layers.Input((1,))])
        optimizer.build([variable])
        step = tf.function(lambda g, w: optimizer.apply([g], [variable], weight=w))
        random = np.random.default_rng(world.rank)
        sizes = []
        for number in range(6):
            step(tf.constant(random.normal(size=(5, 3)), tf.float32), tf.constant(world.rank + 1))
            sizes.append(optimizer.telemetry.totals[1])
            if number == 3:
                settle(world, model, optimizer, 1.0)
        state = [v.numpy().tobytes() for v in optimizer.variables if v.name == "fp16_scales"]
        settle(world, model, optimizer, 1.0)
        after = [v.numpy() for v in optimizer.variables if v.name == "fp16_scales"]
        assert not any(value.any() for value in after)
        return variable.numpy().tobytes(), state, np.diff([0.0, *sizes])

    variable, state, sent = run()
    again, state_again, _ = run()
    assert (variable, state) == (again, state_again)
    assert world.gather(variable) == [variable] * world.size
    # float32 first and after each commit point, half of that otherwise.
    assert (sent / sent[0]).tolist() == [1, 0.5, 0.5, 0.5, 1, 0.5]


@pytest.mark.full_matrix
def test_numbers_gone_bad_on_one_rank_skip_the_step_on_all(world, hosts):
    variable = keras.Variable(np.zeros((4, 2), np.float32), name="v")
    optimizer = DistributedOptimizer(
        keras.optimizers.SGD(1.0), world=world, strategy="hierarchical"
    )
    optimizer.build([variable])
    step = tf.function(lambda gradient: optimizer.apply([gradient], [variable], weight=1))
    step(tf.fill([4, 2], np.float32(np.nan) if world.rank == 1 else 1.0))
    assert not variable.numpy().any()
    assert optimizer.signals.heard().numpy().tolist() == [0, 1, 0]
    step(tf.ones((4, 2)))
    np.testing.assert_allclose(variable.numpy(), -1.0, rtol=1e-6)
