"""TernGrad (Wen et al. 2017, arXiv:1705.07878): each element is -1, 0 or 1 times a scale.

Each tensor is clipped to 2.5 standard deviations and has a scale of its own, its largest element on
any rank. An element is 0 or +-1 at random so that its mean is right. Two bits for each travel, to
all ranks, since a sum of ternary numbers is not ternary: each rank gets every other's, so bytes
grow with the number of ranks, and above 8 ranks int8 is smaller.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.reducers.dense import flatten, unflatten
from app.distributed.reducers.lossy import Lossy
from app.distributed.reducers.random_bits import key_of, uniform
from app.distributed.reducers.reducer import Collective, Reduced, Sent
from app.distributed.world import World
from app.state import Kind

STANDARD_DEVIATIONS = 2.5
PER_BYTE = 4


class TernGrad(Lossy):
    """Two collectives a step: the tensors' scales, then two bits for each element.

    `clips`: False leaves out the clipping, so that the sum is unbiased.
    """

    clips = True

    def build_large(
        self, shapes: Sequence[tuple[int, ...]], add_variable: Callable[..., Any]
    ) -> None:
        self._shapes = [tf.TensorShape(shape) for shape in shapes]
        self._buckets = self.buckets_of(shapes)
        self._step = add_variable((), dtype="int32", name="terngrad_step", kind=Kind.REPLICATED)

    def reduce_large(self, tensors: Sequence[tf.Tensor], world: World, name: str) -> Reduced:
        clipped = [_clipped(tensor) if self.clips else tensor for tensor in tensors]
        own = tf.stack([tf.reduce_max(tf.abs(tensor)) for tensor in clipped])
        scales = world.allmax(own, f"{name}.terngrad.scales")
        step = tf.convert_to_tensor(self._step.value)
        sums: list[Any] = [None] * len(tensors)
        sent = []
        for number, bucket in enumerate(self._buckets):
            chances = [tf.math.divide_no_nan(clipped[index], scales[index]) for index in bucket]
            key = key_of(self.wire.seed, step, world.rank, number)
            packed = _encode(flatten(chances), key)
            elements = sum(self._shapes[index].num_elements() for index in bucket)
            gathered = world.allgather(packed[tf.newaxis], f"{name}.terngrad.{number}")
            pieces = unflatten(
                tf.cast(_sum(gathered)[:elements], tf.float32),
                [self._shapes[index] for index in bucket],
            )
            for index, piece in zip(bucket, pieces, strict=True):
                sums[index] = piece * scales[index]
            sent.append(_sent([tensors[i] for i in bucket], packed, tf.gather(scales, bucket)))
        return Reduced(sums, sent, [(self._step, step + 1)])

    def collectives_of_large(self, shapes: Sequence[Sequence[int]], ranks: int) -> list[Collective]:
        packed = [-(-elements // PER_BYTE) for elements in self.elements_of_buckets(shapes)]
        return [
            Collective("allmax", 4 * len(shapes)),
            *(Collective("allgather", number) for number in packed),
        ]


def _clipped(tensor: tf.Tensor) -> tf.Tensor:
    most = STANDARD_DEVIATIONS * tf.math.reduce_std(tensor)
    return tf.clip_by_value(tensor, -most, most)


@tf.function(jit_compile=True, autograph=False)
def _encode(chances: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """uint8 (ceil(n / 4),) of float32 (n,) in [-1, 1]: 1 for +1, 2 for -1; byte i holds elements i,
    i + m, i + 2m and i + 3m of m bytes."""
    is_there = uniform(chances.shape[0], key) < tf.abs(chances)
    codes = tf.where(is_there, tf.where(chances > 0, 1, 2), 0)
    length = -(-chances.shape[0] // PER_BYTE)
    quarters = tf.reshape(tf.pad(codes, [[0, PER_BYTE * length - chances.shape[0]]]), [4, length])
    shifted = tf.bitwise.left_shift(quarters, tf.constant([[0], [2], [4], [6]]))
    return tf.cast(tf.reduce_sum(shifted, axis=0), tf.uint8)


@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _sum(packed: tf.Tensor) -> tf.Tensor:
    """int32 (4m,): the sums over ranks of uint8 (ranks, m)."""
    codes = tf.cast(packed, tf.int32)[:, tf.newaxis]
    shifts = tf.constant([0, 2, 4, 6])[tf.newaxis, :, tf.newaxis]
    codes = tf.bitwise.bitwise_and(tf.bitwise.right_shift(codes, shifts), 3)
    ternary = tf.bitwise.bitwise_and(codes, 1) - tf.bitwise.right_shift(codes, 1)
    return tf.reshape(tf.reduce_sum(ternary, axis=0), [-1])


def _sent(tensors: Sequence[tf.Tensor], packed: tf.Tensor, scales: tf.Tensor) -> Sent:
    exact = flatten(tensors)
    elements = exact.shape[0]

    def versions() -> tuple[tf.Tensor, tf.Tensor]:
        ternary = tf.cast(_sum(packed[tf.newaxis])[:elements], tf.float32)
        pieces = unflatten(ternary, [tensor.shape for tensor in tensors])
        return exact, flatten([piece * scales[i] for i, piece in enumerate(pieces)])

    in_bytes = tf.cast(tf.size(packed), tf.float64)
    return Sent(tf.constant(4.0 * elements, tf.float64), in_bytes, versions)
