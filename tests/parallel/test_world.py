import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.horovod_world import HorovodWorld, connect
from app.distributed.optimizer import DistributedOptimizer
from app.errors import UserError


def test_connect_finds_all_ranks(world):
    again = connect()
    assert (again.rank, again.size) == (world.rank, world.size)
    assert world.gather(world.rank) == list(range(world.size))


def test_objects_come_from_the_chief(world):
    assert world.broadcast({"rank": world.rank}) == {"rank": 0}
    assert world.from_chief(lambda: ("made by", world.rank)) == ("made by", 0)


def test_an_error_of_the_chief_is_an_error_of_all(world):
    def fail():
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="^the disk is full$") as caught:
        world.from_chief(fail)
    assert caught.value.shared


def test_sums_of_integers_are_exact(world):
    large = np.array([2**53 + 1, 1], np.int64)
    assert world.sum(large).tolist() == [(2**53 + 1) * world.size, world.size]


def test_all_ranks_fail_together_and_name_the_rank(world):
    with pytest.raises(UserError, match="^rank 1: no file x$"), world.together():
        if world.rank == 1:
            raise UserError("no file x")
    with pytest.raises(UserError, match="^no file y$"), world.together():
        raise UserError("no file y")
    with world.together():
        pass


def test_a_differing_fact_names_the_fact_and_the_rank(world):
    world.verify_same({"config": "a", "code": "b"})
    last = world.size - 1
    with pytest.raises(UserError, match=f"rank {last} differs from rank 0 in code: 'c'"):
        world.verify_same({"config": "a", "code": "c" if world.rank == last else "b"})


def test_allgather_takes_a_different_number_of_rows_from_each_rank(world):
    rows = tf.fill([world.rank, 2], float(world.rank))
    gathered = world.allgather(rows, "test.rows").numpy()
    assert gathered[:, 0].tolist() == [r for r in range(world.size) for _ in range(r)]


def test_the_maximum_is_each_elements_own_inside_a_graph_and_outside(world):
    own = tf.constant([world.rank, -world.rank, 7])
    expected = [world.size - 1, 0, 7]
    assert world.allmax(own, "test.max").numpy().tolist() == expected
    in_graph = tf.function(lambda: world.allmax(tf.cast(own, tf.float32), "test.max.graph"))
    assert in_graph().numpy().tolist() == expected
    assert float(world.allmax(tf.constant(float(world.rank)), "test.max.one")) == world.size - 1


def test_the_size_is_read_when_the_graph_runs(world):
    graph = tf.function(world.size_tensor).get_concrete_function().graph
    assert "HorovodSize" in {op.type for op in graph.get_operations()}
    assert float(world.size_tensor()) == world.size


def test_a_process_set_exchanges_among_its_own_ranks(world, pair):
    if world.rank in pair.ranks:
        small = HorovodWorld(pair)
        assert (small.rank, small.size) == (world.rank, 2)
        assert float(small.allreduce(tf.constant(float(world.rank + 1)), "test.pair")) == 3.0
        variable = keras.Variable(np.zeros(2, np.float32), name="v")
        optimizer = DistributedOptimizer(keras.optimizers.SGD(1.0), process_set=pair)
        optimizer.apply([tf.fill([2], float(world.rank))], [variable], weight=world.rank + 1)
        np.testing.assert_allclose(variable.numpy(), -2 / 3, rtol=1e-6)
