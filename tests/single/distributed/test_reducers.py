"""Reducers: buckets, compressors and rows, in a world of one and in a made-up one."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from app.distributed.reducers import COMPRESSIONS, make_reducer
from app.distributed.reducers.codec import NoCompression
from app.distributed.reducers.dense import DenseBuckets, flatten, plan_buckets, unflatten
from app.distributed.reducers.half import ScaledHalf
from app.distributed.reducers.lossy import Lossy
from app.distributed.reducers.reducer import Reduced
from app.distributed.reducers.sparse import SparseRows, sum_duplicates
from app.distributed.signals import times
from app.distributed.world import World

SIZES = st.lists(st.tuples(st.sampled_from(["float32", "float16"]), st.integers(0, 100)))
SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=6)


@settings(deadline=None)
@given(SIZES, st.integers(1, 150))
def test_every_tensor_is_in_one_bucket_of_its_dtype_that_is_not_too_full(
    sizes: list[tuple[str, int]], bucket_bytes: int
) -> None:
    buckets = plan_buckets(sizes, bucket_bytes)
    assert sorted(index for bucket in buckets for index in bucket) == list(range(len(sizes)))
    for bucket in buckets:
        assert len({sizes[index][0] for index in bucket}) == 1
        assert sum(sizes[index][1] for index in bucket) <= bucket_bytes or len(bucket) == 1
        assert bucket == sorted(bucket, reverse=True)
    firsts = [bucket[0] for bucket in buckets]
    assert firsts == sorted(firsts, reverse=True)


@settings(deadline=None)
@given(SIZES.filter(bool), st.integers(1, 150))
def test_no_two_neighbouring_buckets_of_a_dtype_would_fit_into_one(sizes, bucket_bytes) -> None:
    buckets = plan_buckets(sizes, bucket_bytes)
    for dtype in ("float32", "float16"):
        own = [bucket for bucket in buckets if sizes[bucket[0]][0] == dtype]
        for bucket, following in itertools.pairwise(own):
            filled = sum(sizes[index][1] for index in bucket)
            assert filled + sizes[following[0]][1] > bucket_bytes


def test_buckets_are_filled_from_the_last_tensor() -> None:
    sizes = [("float32", 40), ("float32", 40), ("float16", 8), ("float32", 40), ("float32", 200)]
    assert plan_buckets(sizes, 100) == [[4], [3, 1], [2], [0]]


@settings(deadline=None, max_examples=30)
@given(SHAPES)
def test_unflatten_undoes_flatten(shapes: list[tuple[int, ...]]) -> None:
    random = np.random.default_rng(0)
    tensors = [tf.constant(random.normal(size=shape).astype(np.float32)) for shape in shapes]
    flat = flatten(tensors)
    assert flat.shape == (sum(int(np.prod(shape)) for shape in shapes),)
    for tensor, again in zip(tensors, unflatten(flat, [t.shape for t in tensors]), strict=True):
        np.testing.assert_array_equal(tensor, again)


def test_a_compression_is_found_by_name_or_made_of_an_object() -> None:
    for name in COMPRESSIONS:
        assert isinstance(make_reducer(name, 100, sparse_as_dense=True), DenseBuckets | Lossy)
        rows = make_reducer(name, 100, sparse_as_dense=False)
        assert isinstance(rows, SparseRows)
        dense = rows.dense.dense if isinstance(rows.dense, Lossy) else rows.dense
        assert isinstance(dense, DenseBuckets) and type(rows.codec) is type(dense.codec)
    assert isinstance(make_reducer("fp16", 100, True).codec, ScaledHalf)
    for own in (NoCompression(), NoCompression):  # Horovod's are classes
        assert make_reducer(own, 100, True).codec.compressor is own
    reducer = DenseBuckets(ScaledHalf(), 5)
    assert make_reducer(reducer, 100, True) is reducer
    with pytest.raises(ValueError, match="compression='fp8': expected one of"):
        make_reducer("fp8", 100, True)


@pytest.mark.parametrize("method", ["compress", "decompress"])
def test_an_object_that_is_no_compressor_is_a_type_error(method: str) -> None:
    half = type("Half", (), {method: lambda self, tensor: tensor})()
    missing = {"compress": "decompress", "decompress": "compress"}[method]
    with pytest.raises(TypeError, match=rf"has no method {missing}\(\)"):
        make_reducer(half, 100, True)


class TwinWorld(World):
    """A world whose other rank always sends the same as this one; it counts collectives."""

    size = 2

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, int]] = []

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        self.sent.append((name, tensor.dtype.name, int(tf.size(tensor))))
        return tensor + tensor

    def allgather(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        self.sent.append((name, tensor.dtype.name, int(tf.size(tensor))))
        return tf.concat([tensor, tensor], axis=0)

    def size_tensor(self) -> tf.Tensor:
        return tf.constant(2.0)


def reduce(world: World, gradients: list, variables: list, share: float, **options) -> Reduced:
    """What a reducer without compression makes of a share of gradients."""
    defaults = {"bucket_bytes": 10**6, "sparse_as_dense": False}
    reducer = make_reducer("none", **{**defaults, **options})
    reducer.build(variables, None)
    shares = [None if g is None else times(g, share) for g in gradients]
    return reducer.reduce(shares, variables, world, "x")


GRADIENTS = [np.arange(6, dtype=np.float32).reshape(2, 3), None, np.array([7.0], np.float32)]
VARIABLES = [tf.Variable(tf.zeros((2, 3))), tf.Variable(0.0), tf.Variable([0.0])]


def gradients() -> list[tf.Tensor | None]:
    return [None if g is None else tf.constant(g) for g in GRADIENTS]


def test_the_mean_of_two_equal_ranks_is_that_of_one() -> None:
    reduced, *_ = reduce(TwinWorld(), gradients(), VARIABLES, 0.5)
    assert reduced[1] is None
    for index in (0, 2):
        np.testing.assert_allclose(reduced[index], GRADIENTS[index], rtol=1e-6)


def test_ranks_count_by_their_shares() -> None:
    world = TwinWorld()
    reduced, *_ = reduce(world, gradients(), VARIABLES, 0.25)
    np.testing.assert_allclose(reduced[0], GRADIENTS[0] * 2 / 4)
    assert world.sent == [("x.bucket.0", "float32", 7)]


def test_small_buckets_leave_last_variables_first_and_give_the_same() -> None:
    world = TwinWorld()
    reduced, sent, _ = reduce(world, gradients(), VARIABLES, 0.5, bucket_bytes=8)
    assert [(name, size) for name, _, size in world.sent] == [("x.bucket.0", 1), ("x.bucket.1", 6)]
    assert [float(one.bytes_sent) for one in sent] == [4, 24]
    np.testing.assert_allclose(reduced[0], GRADIENTS[0])


def test_a_bucket_has_one_dtype() -> None:
    world = TwinWorld()
    mixed = [tf.ones((2, 3), tf.float16), None, tf.ones(1)]
    reduced, *_ = reduce(world, mixed, VARIABLES, 0.5)
    assert [(dtype, size) for _, dtype, size in world.sent] == [("float32", 1), ("float16", 6)]
    assert reduced[0].dtype == tf.float16


def test_a_shape_that_the_variable_has_not_is_refused() -> None:
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"\(?4"):
        reduce(World(), [tf.ones(4)], [tf.Variable(tf.zeros(3))], 1.0)


def test_sparse_gradients_are_gathered_and_duplicates_added_up() -> None:
    world = TwinWorld()
    values = np.array([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]], np.float32)
    slices = tf.IndexedSlices(tf.constant(values), tf.constant([4, 1, 4]), tf.constant([6, 2]))
    table = tf.Variable(tf.zeros((6, 2)))
    (reduced,), *_ = reduce(world, [slices], [table], 0.5)
    assert isinstance(reduced, tf.IndexedSlices)
    assert sorted(reduced.indices.numpy().tolist()) == [1, 4]
    np.testing.assert_allclose(
        tf.convert_to_tensor(reduced), tf.convert_to_tensor(slices), rtol=1e-6
    )
    assert [name for name, _, _ in world.sent] == ["x.sparse.0.values", "x.sparse.0.indices"]


def test_duplicates_are_added_up_in_the_order_of_rows_on_any_device() -> None:
    """A GPU's kernel adds with atomics, so ranks would differ in their last bits."""
    random = np.random.default_rng(0)
    indices = random.integers(0, 7, 500)
    values = random.normal(size=(500, 3)).astype(np.float32)
    expected = np.zeros((7, 3), np.float32)
    for row, index in zip(values, indices, strict=True):
        expected[index] += row

    traced = tf.function(sum_duplicates)
    sums, unique = traced(tf.constant(values), tf.constant(indices))
    np.testing.assert_array_equal(sums, expected[unique.numpy()])
    graph = traced.get_concrete_function(tf.constant(values), tf.constant(indices)).graph
    (adds,) = [op for op in graph.get_operations() if op.type == "UnsortedSegmentSum"]
    assert "CPU" in adds.device


def test_sparse_gradients_travel_dense_if_asked_to() -> None:
    world = TwinWorld()
    slices = tf.IndexedSlices(tf.ones((1, 2)), tf.constant([4]), tf.constant([6, 2]))
    table = tf.Variable(tf.zeros((6, 2)))
    (reduced,), *_ = reduce(world, [slices], [table], 0.5, sparse_as_dense=True)
    np.testing.assert_allclose(reduced, tf.convert_to_tensor(slices))
    assert world.sent == [("x.bucket.0", "float32", 12)]
