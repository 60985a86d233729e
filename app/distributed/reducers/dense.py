"""DenseBuckets: gradients travel in buckets: one flat tensor, one collective, for many variables.

Buckets are filled from the last variable to the first, the order in which backpropagation
produces gradients, so that the first bucket leaves while earlier layers still compute (Li et al.
2020, arXiv:2006.15704). Phases: bucket -> the codec compresses, sums over ranks and
decompresses -> unbucket.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.reducers.codec import Codec, Part
from app.distributed.reducers.reducer import Collective, Reduced
from app.distributed.world import World


class DenseBuckets:
    """Sums gradients in buckets of at most `bucket_bytes`; `tf.IndexedSlices` are made dense."""

    def __init__(self, codec: Codec, bucket_bytes: int):
        self.codec = codec
        self.bucket_bytes = bucket_bytes
        self._rows: dict[int, int] = {}

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """There is a row of the codec's state for each variable. A bucket has that of the first
        variable in it: which gradients share a bucket is known only when there are gradients."""
        self._rows = {id(variable): row for row, variable in enumerate(variables)}
        self.codec.build(len(variables), add_variable)

    @property
    def is_exact_for_vectors(self) -> bool:
        """See `Reducer`."""
        return self.codec.is_exact

    def reduce(
        self,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        world: World,
        name: str,
    ) -> Reduced:
        """See `Reducer`."""
        reduced: list[Any] = [
            None if g is None else tf.ensure_shape(tf.convert_to_tensor(g), variable.shape)
            for g, variable in zip(gradients, variables, strict=True)
        ]
        dense = [index for index, gradient in enumerate(reduced) if gradient is not None]
        sizes = [
            (reduced[i].dtype.name, reduced[i].dtype.size * reduced[i].shape.num_elements())
            for i in dense
        ]
        buckets = [[dense[i] for i in b] for b in plan_buckets(sizes, self.bucket_bytes)]
        parts = [
            Part(
                flatten([reduced[index] for index in bucket]),
                self._rows.get(id(variables[bucket[0]]), 0),
                f"{name}.bucket.{number}",
            )
            for number, bucket in enumerate(buckets)
        ]
        sums, keeps = self.codec.sum(parts, world)
        for bucket, (flat, _) in zip(buckets, sums, strict=True):
            pieces = unflatten(flat, [reduced[index].shape for index in bucket])
            for index, piece in zip(bucket, pieces, strict=True):
                reduced[index] = piece
        return Reduced(reduced, [sent for _, sent in sums], keeps)

    def collectives(self, shapes: Sequence[Sequence[int]], ranks: int) -> list[Collective]:
        """See `Reducer`."""
        elements = [math.prod(shape) for shape in shapes]
        buckets = plan_buckets([("float32", 4 * number) for number in elements], self.bucket_bytes)
        totals = [sum(elements[index] for index in bucket) for bucket in buckets]
        return [one for total in totals for one in self.codec.collectives(total, ranks)]


def plan_buckets(sizes: Sequence[tuple[str, int]], bucket_bytes: int) -> list[list[int]]:
    """Indices of the tensors of each bucket, last tensor first, one dtype per bucket.

    `sizes` holds (dtype name, bytes) of each tensor. A bucket holds at most `bucket_bytes`,
    except that a larger tensor has a bucket of its own.
    """
    buckets: list[list[int]] = []
    open_buckets: dict[str, tuple[list[int], int]] = {}
    for index in reversed(range(len(sizes))):
        dtype, size = sizes[index]
        bucket, filled = open_buckets.get(dtype, ([], 0))
        if not bucket or filled + size > bucket_bytes:
            bucket, filled = [], 0
            buckets.append(bucket)
        bucket.append(index)
        open_buckets[dtype] = (bucket, filled + size)
    return buckets


def flatten(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """One 1-D tensor of all elements."""
    flat = [tf.reshape(tensor, [-1]) for tensor in tensors]
    return flat[0] if len(flat) == 1 else tf.concat(flat, axis=0)


def unflatten(flat: tf.Tensor, shapes: Sequence[tf.TensorShape]) -> list[tf.Tensor]:
    """The inverse of `flatten` for tensors of the given static shapes."""
    pieces = tf.split(flat, [shape.num_elements() for shape in shapes])
    return [tf.reshape(piece, shape) for piece, shape in zip(pieces, shapes, strict=True)]
