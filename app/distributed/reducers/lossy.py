"""Lossy: what the reducers have in common that compress large tensors and no others.

Biases and the scales of norms are a thousandth of a model, and losing a part of them costs more
than they do. So tensors of one dimension, and small ones, travel as they are, beside the others.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.options import Wire
from app.distributed.reducers.dense import DenseBuckets, plan_buckets
from app.distributed.reducers.reducer import Collective, Reduced
from app.distributed.world import World

LEAST_ELEMENTS = 1024


def is_large(shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape is compressed."""
    return len(shape) >= 2 and math.prod(shape) >= LEAST_ELEMENTS


class Lossy:
    """A reducer: a subclass compresses the large tensors, and `dense` sends all others.

    The subclass provides `build_large`, `reduce_large` and `collectives_of_large`. It always gets
    the same tensors in the same order, so it may lay its state out as it likes: a variable without
    a gradient counts as zeros, and gets none back.
    """

    def __init__(self, dense: DenseBuckets, wire: Wire, epoch: tf.Variable):
        """`epoch`: float32 (), how far training is, where `wire.from_epoch` matters."""
        self.dense = dense
        self.wire = wire
        self.epoch = epoch
        self._large: list[Any] = []

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """See `Reducer`."""
        self._large = [v for v in variables if is_large(v.shape) and _is_float32(v)]
        self.dense.build(variables, add_variable)
        self.build_large([tuple(v.shape) for v in self._large], add_variable)

    @property
    def is_exact_for_vectors(self) -> bool:
        """See `Reducer`."""
        return self.dense.is_exact_for_vectors

    def reduce(
        self, gradients: Sequence[Any], variables: Sequence[Any], world: World, name: str
    ) -> Reduced:
        """See `Reducer`."""
        given = {
            id(variable): tf.ensure_shape(tf.convert_to_tensor(gradient), variable.shape)
            for gradient, variable in zip(gradients, variables, strict=True)
            if gradient is not None
        }
        large = {id(variable) for variable in self._large}
        rest = [
            None if id(variable) in large else gradient
            for gradient, variable in zip(gradients, variables, strict=True)
        ]
        reduced, sent, keeps = self.dense.reduce(rest, variables, world, name)
        if not large & given.keys():
            return Reduced(reduced, sent, keeps)
        tensors = [given.get(id(v), tf.zeros(v.shape)) for v in self._large]
        sums, sent_large, keeps_large = self.reduce_large(tensors, world, name)
        of = {id(variable): one for variable, one in zip(self._large, sums, strict=True)}
        for index, variable in enumerate(variables):
            if id(variable) in large & given.keys():
                reduced[index] = of[id(variable)]
        return Reduced(reduced, [*sent, *sent_large], [*keeps, *keeps_large])

    def collectives(self, shapes: Sequence[Sequence[int]], ranks: int) -> list[Collective]:
        """See `Reducer`."""
        small = self.dense.collectives([shape for shape in shapes if not is_large(shape)], ranks)
        large = [shape for shape in shapes if is_large(shape)]
        return small + (self.collectives_of_large(large, ranks) if large else [])

    def buckets_of(self, shapes: Sequence[Sequence[int]]) -> list[list[int]]:
        """Which tensors of these shapes travel together."""
        sizes = [("float32", 4 * math.prod(shape)) for shape in shapes]
        return plan_buckets(sizes, self.dense.bucket_bytes)

    def elements_of_buckets(self, shapes: Sequence[Sequence[int]]) -> list[int]:
        """The number of elements in each bucket of `buckets_of`."""
        return [
            sum(math.prod(shapes[index]) for index in bucket) for bucket in self.buckets_of(shapes)
        ]

    def build_large(
        self, shapes: Sequence[tuple[int, ...]], add_variable: Callable[..., Any]
    ) -> None:
        """Create what is kept from step to step, for large tensors of these shapes."""
        raise NotImplementedError

    def reduce_large(self, tensors: Sequence[tf.Tensor], world: World, name: str) -> Reduced:
        """The sums over ranks of float32 tensors of the shapes of `build_large`."""
        raise NotImplementedError

    def collectives_of_large(self, shapes: Sequence[Sequence[int]], ranks: int) -> list[Collective]:
        """What `reduce_large` hands to collectives."""
        raise NotImplementedError


def _is_float32(variable: Any) -> bool:
    # Shares of a gradient of less than 32 bits are float32.
    return tf.as_dtype(variable.dtype).size <= 4
