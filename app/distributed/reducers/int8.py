"""int8: each bucket as whole numbers of 8 bits, rounded at random, added up as they are.

All ranks share the scale of a bucket, the largest element that any of them sends, so that their
sum is a plain sum of bytes. It must not wrap around, so each rank has 127 // ranks levels on either
side of 0. Rounding up or down at random in proportion to the distance makes the sum unbiased, as in
QSGD (Alistarh et al. 2017, arXiv:1610.02132), so nothing need be kept of the error.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.reducers import MOST_RANKS_OF_INT8
from app.distributed.reducers.dense import flatten, unflatten
from app.distributed.reducers.fused import fused
from app.distributed.reducers.lossy import Lossy
from app.distributed.reducers.random_bits import key_of, uniform
from app.distributed.reducers.reducer import Collective, Reduced, Sent
from app.distributed.world import World
from app.state import Kind

MOST = 127  # of int8
LEAST = 2.0**-100  # a bucket of smaller numbers counts as zeros: MOST / LEAST is a float32


class Int8(Lossy):
    """Two collectives a step: the buckets' largest elements, then a byte for each element."""

    def build_large(
        self, shapes: Sequence[tuple[int, ...]], add_variable: Callable[..., Any]
    ) -> None:
        self._shapes = [tf.TensorShape(shape) for shape in shapes]
        self._buckets = self.buckets_of(shapes)
        self._step = add_variable((), dtype="int32", name="int8_step", kind=Kind.REPLICATED)

    def reduce_large(self, tensors: Sequence[tf.Tensor], world: World, name: str) -> Reduced:
        refuse_many(world.size)
        flats = [flatten([tensors[index] for index in bucket]) for bucket in self._buckets]
        own = tf.stack([tf.reduce_max(tf.abs(flat)) for flat in flats])
        scales = world.allmax(own, f"{name}.int8.scales")
        scales = tf.where(scales < LEAST, 0.0, scales)
        levels = tf.cast(MOST // tf.cast(world.size_tensor(), tf.int32), tf.float32)
        step = tf.convert_to_tensor(self._step.value)
        sums: list[Any] = [None] * len(tensors)
        sent = []
        for number, (bucket, flat) in enumerate(zip(self._buckets, flats, strict=True)):
            per_unit = tf.math.divide_no_nan(levels, scales[number])
            key = key_of(self.wire.seed, step, world.rank, number)
            rounded = _encode(flat, per_unit, levels, key)
            total = world.allreduce(rounded, f"{name}.int8.{number}")
            unit = scales[number] / levels
            for index, piece in zip(
                bucket,
                unflatten(
                    tf.cast(total, tf.float32) * unit, [self._shapes[index] for index in bucket]
                ),
                strict=True,
            ):
                sums[index] = piece
            sent.append(_sent(flat, rounded, unit))
        return Reduced(sums, sent, [(self._step, step + 1)])

    def collectives_of_large(self, shapes: Sequence[Sequence[int]], ranks: int) -> list[Collective]:
        buckets = self.elements_of_buckets(shapes)
        return [
            Collective("allmax", 4 * len(buckets)),
            *(Collective("allreduce", elements) for elements in buckets),
        ]


def refuse_many(ranks: int) -> None:
    """Raise ValueError if int8 has too few levels for so many ranks."""
    if ranks > MOST_RANKS_OF_INT8:
        raise ValueError(
            f"compression 'int8' with {ranks} ranks: a sum of bytes has room for at most "
            f"{MOST_RANKS_OF_INT8}. Use sync = 'hierarchical', which adds up exactly inside a host "
            "and counts hosts here, or another compression"
        )


@fused
def _encode(flat: tf.Tensor, per_unit: tf.Tensor, levels: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """int8 (n,) in [-levels, levels] of float32 (n,)."""
    rounded = tf.floor(flat * per_unit + uniform(flat.shape[0], key))
    # The largest element times `per_unit` may be a bit more than `levels`.
    return tf.cast(tf.clip_by_value(rounded, -levels, levels), tf.int8)


def _sent(flat: tf.Tensor, rounded: tf.Tensor, unit: tf.Tensor) -> Sent:
    elements = tf.cast(tf.size(flat), tf.float64)
    return Sent(4 * elements, elements, lambda: (flat, tf.cast(rounded, tf.float32) * unit))
