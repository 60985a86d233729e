"""What `ByHost` does between four ranks on two hosts, and what it refuses."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from app.distributed.reducers import make_reducer
from app.distributed.reducers.by_host import ByHost, piece_of
from app.distributed.world import World
from app.state import Kind
from tests.single.distributed.threads import ThreadRank

HOSTS = RANKS_OF_HOST = 2
SHAPES = [(3, 5), (7,), (), (3, 3, 4, 6), (1, 9)]


class Variable:
    def __init__(self, shape, dtype="float32"):
        self.shape, self.dtype, self.path = tf.TensorShape(shape), dtype, "v"


def add_variable(shape, dtype="float32", name=None, kind=Kind.REPLICATED, optional=False):
    made = tf.Variable(tf.zeros(shape, dtype))
    made.value, made.kind = made.read_value(), kind
    return made


def on_hosts(work):
    """`work(rank, local, across)` on every rank at the same time; their results."""

    def groups():
        return [(threading.Barrier(2), {}) for _ in range(2)]

    inside, between = groups(), groups()

    def of(rank):
        host, number = divmod(rank, RANKS_OF_HOST)
        local = ThreadRank(number, RANKS_OF_HOST, 1, *inside[host])
        across = ThreadRank(host, HOSTS, 1, *between[number])
        return work(rank, local, across)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(of, range(4)))


@pytest.mark.parametrize("compression", ["none", "fp16"])
def test_the_result_is_the_sum_over_all_ranks_with_the_same_bits_on_each(compression) -> None:
    variables = [Variable(shape) for shape in SHAPES] + [Variable((3, 3), "float64")]
    variables.append(Variable((4,)))  # without a gradient
    random = np.random.default_rng(0)
    given = [
        [random.normal(size=v.shape).astype(v.dtype) for v in variables[:-1]] for _ in range(4)
    ]

    def work(rank, local, across):
        reducer = ByHost(make_reducer(compression, 10**6, True), local, across)
        reducer.build(variables, add_variable)
        return reducer.reduce([*map(tf.constant, given[rank]), None], variables, World(), "n")

    results = on_hosts(work)
    for result in results:
        assert result.gradients[-1] is None
        for index, total in enumerate(result.gradients[:-1]):
            assert total.dtype == variables[index].dtype
            assert total.shape == variables[index].shape
            expected = sum(gradients[index] for gradients in given)
            # The first exchange of fp16 is exact.
            np.testing.assert_allclose(total.numpy(), expected, rtol=1e-5, atol=1e-6)
            assert total.numpy().tobytes() == results[0].gradients[index].numpy().tobytes()


def test_each_rank_sends_its_piece_only_and_says_so() -> None:
    variables = [Variable(shape) for shape in SHAPES]
    gradients = [tf.ones(shape) for shape in SHAPES]

    def work(rank, local, across):
        reducer = ByHost(make_reducer("none", 10**6, True), local, across)
        reducer.build(variables, add_variable)
        (sent,) = reducer.reduce(gradients, variables, World(), "n").sent
        return float(sent.bytes_sent), reducer.collectives(SHAPES, 4), local.called, across.called

    elements = 2 * 5 + 4 + 1 + 18 * 6 + 1 * 9  # half of the rows, rounded up
    for sent, stated, inside, between in on_hosts(work):
        assert sent == 4 * elements
        assert [one.kind for one in stated] == ["alltoall", "allreduce", "allgather"]
        assert [one.bytes for one in stated] == [8 * elements, 4 * elements, 4 * elements]
        assert (len(inside), len(between)) == (2, 1)


def test_rows_of_a_matrix_stay_together() -> None:
    assert [tuple(piece_of(Variable(shape), 2).shape) for shape in SHAPES] == [
        (2, 5),
        (4,),
        (1,),
        (18, 6),
        (1, 9),
    ]


def test_what_is_found_out_of_pieces_is_no_state_and_is_forgotten() -> None:
    made = []

    def add(*args, **options):
        made.append(add_variable(*args, **options))
        return made[-1]

    reducer = ByHost(make_reducer("fp16", 10**6, True), World(), World())
    variable = Variable((3,))
    reducer.build([variable], add)
    result = reducer.reduce([tf.ones(3)], [variable], World(), "n")
    (state,) = made
    assert state.kind is Kind.LOCAL
    state.assign(result.keeps[0][1])
    assert state.numpy().any()
    reducer.clear()
    assert not state.numpy().any()


def test_a_compression_with_residuals_is_refused_by_name() -> None:
    class Owes:
        def build(self, variables, add):
            add(variables[0].shape, name="owed", kind=Kind.SUMMED)

    with pytest.raises(ValueError, match="sync='hierarchical' does not go with .* residuals"):
        ByHost(Owes(), World(), World()).build([Variable((3,))], add_variable)
