"""topk: the largest elements travel, the others wait: Deep Gradient Compression.

Lin et al. 2018 (arXiv:1712.01887). What is not sent is added to the next step's gradient (error
feedback). Momentum must then be made before elements are chosen, on each rank (momentum
correction); so with `wire`'s momentum the optimizer inside has none. Each rank clips its own
gradient, to 1 / sqrt(ranks) of the norm for the sum. What the paper does besides, to forget the
momentum of an element when it is sent (momentum factor masking), is left out: it lost accuracy here
(NOTES.md).

The threshold is that of a sample, and the number of elements that travel is fixed: those above it
that are too many wait, and zeros stand in where there are too few. Where everything travels (a
ratio of 1, or before `wire.from_epoch`) nothing waits: that is SGD.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from app.distributed.reducers.dense import flatten, unflatten
from app.distributed.reducers.fused import fused
from app.distributed.reducers.lossy import Lossy
from app.distributed.reducers.reducer import Collective, Reduced, Sent
from app.distributed.world import World
from app.state import Kind

# Every so many elements one decides the threshold: as few as leave a good sample. Primes, because
# a stride of the width of a matrix would see one column of it.
STRIDES = (101, 53, 29, 13, 7, 3, 1)
LEAST_SAMPLE = 4096
SMALLEST_NORMAL = 2.0**-126


class Kept(NamedTuple):
    """What a rank keeps of a bucket, float32 (elements,): the sum of what was not sent, and its
    momentum (or None)."""

    owed: Any
    velocity: Any


class TopK(Lossy):
    """Two collectives for each bucket: values float32 and their places int32, of `topk_ratio` of
    its elements; one where everything travels."""

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """See `Reducer`. Small tensors have a momentum too, of their sums."""
        super().build(variables, add_variable)
        large = {id(variable) for variable in self._large}
        small = [v for v in variables if id(v) not in large and self.wire.momentum]
        self._small = {
            id(variable): add_variable(
                variable.shape, dtype=variable.dtype, name=f"topk_small_velocity_{number}"
            )
            for number, variable in enumerate(small)
        }

    @property
    def is_exact_for_vectors(self) -> bool:
        """See `Reducer`: not if all that a rank gives is scaled."""
        return super().is_exact_for_vectors and self.wire.clip_norm is None

    def build_large(
        self, shapes: Sequence[tuple[int, ...]], add_variable: Callable[..., Any]
    ) -> None:
        self._shapes = [tf.TensorShape(shape) for shape in shapes]
        self._buckets = self.buckets_of(shapes)
        self._elements = self.elements_of_buckets(shapes)

        def add(name: str, elements: int) -> Any:
            return add_variable((elements,), dtype="float32", name=name, kind=Kind.SUMMED)

        self._kept = [
            Kept(
                add(f"topk_owed_{number}", elements),
                add(f"topk_velocity_{number}", elements) if self.wire.momentum else None,
            )
            for number, elements in enumerate(self._elements)
        ]

    def reduce(
        self, gradients: Sequence[Any], variables: Sequence[Any], world: World, name: str
    ) -> Reduced:
        """See `Reducer`."""
        reduced = super().reduce(self._clipped(gradients, world), variables, world, name)
        sums, keeps = list(reduced.gradients), list(reduced.keeps)
        for index, variable in enumerate(variables):
            velocity = self._small.get(id(variable))
            if velocity is not None and sums[index] is not None:
                moved = self.wire.momentum * tf.convert_to_tensor(velocity.value)
                sums[index] = moved + tf.cast(sums[index], moved.dtype)
                keeps.append((velocity, sums[index]))
        return Reduced(sums, reduced.sent, keeps)

    def _clipped(self, gradients: Sequence[Any], world: World) -> list[Any]:
        if self.wire.clip_norm is None:
            return list(gradients)
        norm = tf.linalg.global_norm([gradient for gradient in gradients if gradient is not None])
        most = tf.cast(self.wire.clip_norm * tf.math.rsqrt(world.size_tensor()), norm.dtype)
        # 0 of a norm beyond float32: what is kept must stay finite.
        by = most / tf.maximum(norm, most)
        return [None if one is None else one * tf.cast(by, one.dtype) for one in gradients]

    def reduce_large(self, tensors: Sequence[tf.Tensor], world: World, name: str) -> Reduced:
        sums: list[Any] = [None] * len(tensors)
        sent, keeps = [], []
        for number, bucket in enumerate(self._buckets):
            flat = flatten([tensors[index] for index in bucket])
            total, took, kept = self._reduce(number, flat, world, f"{name}.topk.{number}")
            pieces = unflatten(total, [self._shapes[index] for index in bucket])
            for index, piece in zip(bucket, pieces, strict=True):
                sums[index] = piece
            sent.append(took)
            keeps += kept
        return Reduced(sums, sent, keeps)

    def _reduce(self, number: int, flat: tf.Tensor, world: World, name: str):
        """(the sum over ranks, what it took, what to keep) of one bucket."""
        elements, owed = self._elements[number], self._kept[number].owed
        velocity = self._kept[number].velocity
        moved = flat
        if velocity is not None:
            moved = flat + self.wire.momentum * tf.convert_to_tensor(velocity.value)
        exact = tf.convert_to_tensor(owed.value) + moved

        def largest() -> tuple[tf.Tensor, ...]:
            k = number_of(elements, self.wire.topk_ratio)
            places, is_real = _places(exact, self.wire.topk_ratio, k)
            values = tf.gather(exact, places) * is_real
            total = _summed(
                world.allgather(values, f"{name}.values"),
                world.allgather(places, f"{name}.places"),
                elements,
            )
            return total, _added(-values, places, exact)

        def everything() -> tuple[tf.Tensor, ...]:
            return world.allreduce(exact, f"{name}.all"), tf.zeros_like(exact)

        ratio = self.wire.topk_ratio
        if ratio < 1 and self.wire.from_epoch > 0:
            is_sparse = self.epoch >= self.wire.from_epoch
            total, left = tf.cond(is_sparse, largest, everything)
        else:
            is_sparse = tf.constant(ratio < 1)
            total, left = largest() if ratio < 1 else everything()
        keeps = [(owed, left)]
        keeps += [] if velocity is None else [(velocity, moved)]
        all_bytes = 4.0 * elements
        in_bytes = tf.where(is_sparse, 8.0 * number_of(elements, ratio), all_bytes)
        took = Sent(
            tf.constant(all_bytes, tf.float64),
            tf.cast(in_bytes, tf.float64),
            lambda: (exact, exact - left),
        )
        return tf.ensure_shape(total, [elements]), took, keeps

    def collectives_of_large(self, shapes: Sequence[Sequence[int]], ranks: int) -> list[Collective]:
        found = []
        for elements in self.elements_of_buckets(shapes):
            if self.wire.topk_ratio == 1:
                found.append(Collective("allreduce", 4 * elements))
                continue
            k = number_of(elements, self.wire.topk_ratio)
            found += [Collective("allgather", 4 * k), Collective("allgather", 4 * k)]
        return found


def number_of(elements: int, ratio: float) -> int:
    """How many of so many elements travel."""
    return math.ceil(ratio * elements)


def _places(exact: tf.Tensor, ratio: float, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(the places of up to `k` of the largest elements, int32 (k,), then 0; 1 for a real one, else
    0, float32 (k,))."""
    size = tf.abs(exact)
    stride = next((one for one in STRIDES if exact.shape[0] >= one * LEAST_SAMPLE), 1)
    sample = size[::stride]
    least = tf.math.top_k(sample, number_of(sample.shape[0], ratio)).values[-1]
    # Zeros are not worth sending, whatever the threshold.
    chosen = tf.where(size >= tf.maximum(least, SMALLEST_NORMAL))[:k, 0]
    missing = k - tf.size(chosen)
    places = tf.pad(tf.cast(chosen, tf.int32), [[0, missing]])
    is_real = tf.cast(tf.range(k) < tf.size(chosen), tf.float32)
    return tf.ensure_shape(places, [k]), is_real


def _summed(values: tf.Tensor, places: tf.Tensor, elements: int) -> tf.Tensor:
    """float32 (elements,): the sums of all ranks' `values` at their `places`.

    Every rank adds up for itself, and all must get the same bits: by the CPU, in order (see
    `sum_duplicates` in sparse.py).
    """
    with tf.device("CPU"):
        return _added(values, places, tf.zeros(elements))


@fused
def _added(values: tf.Tensor, places: tf.Tensor, onto: tf.Tensor) -> tf.Tensor:
    return tf.tensor_scatter_nd_add(onto, places[:, tf.newaxis], values)
