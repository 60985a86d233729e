"""Gradients as float16 on the wire, each bucket under a scale that all ranks share.

float16 has 11 bits down to 2^-14 and nothing below 2^-25, while one of many ranks' shares of a
small gradient is far below that. So each bucket is multiplied by a power of two that brings the
largest element of its sum near the top of float16's range, as loss scaling does for a whole model
(Micikevicius et al. 2018, arXiv:1710.03740). The sum has the same bits on every rank, so its
maximum gives the scale of the next step without any communication, and every decision made on it
is the same on all ranks: where the scale is not known yet, or turns out to be wrong (an overflow,
or a maximum so small that float16 would lose bits), the bucket is exchanged in its own precision
within the same step.

Sums are made in float32: a rank gets its shard of every rank's bucket, adds up, and sends the sum
on as float16 (a reduce-scatter and an allgather, as in a ring, with the same bytes). So each
element is rounded twice however many ranks there are. A ring of float16 additions rounds N times,
and Horovod's over gloo is slow (NOTES.md).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.reducers.codec import Part, Results
from app.distributed.reducers.reducer import Collective, Sent
from app.distributed.world import World

TOP = 16  # float16 ends just below 2^16
# The largest sum is brought to 2^-HEADROOM of the top: it may grow 16-fold within a step, and
# shares that cancel in the sum may be larger than it.
HEADROOM = 4
# A scale that was too large leaves more headroom, as dynamic loss scaling halves its scale, and
# grows back as slowly: by a factor of two in 2,048 steps.
BACK_OFF, MOST_BACK_OFF, RECOVERY = 3.0, 6.0, 2.0**-11
# A largest sum below this would leave shares of 1,024 ranks too near float16's least numbers.
LEAST = 4.0
SMALLEST_NORMAL = 2.0**-126


class ScaledHalf:
    """A codec with one row of state for each part, all of it replicated."""

    is_exact = False

    def build(self, rows: int, add_variable: Callable[..., Any]) -> None:
        """Create the state: float32 (rows, 2), of (scale or 0 if unknown, log2 of the back-off).

        It is found out anew within a step, so a checkpoint may lack it.
        """
        self._state = add_variable((rows, 2), dtype="float32", name="fp16_scales", optional=True)

    def sum(self, parts: Sequence[Part], world: World) -> Results:
        """The sums over ranks of the tensors, each of them 1-D."""
        halves = functools.partial(_sum_halves, world)
        sums, keeps = self._exchange_all(halves, world.allreduce, parts)
        shaped = [
            (tf.ensure_shape(total, part.tensor.shape), sent)
            for part, (total, sent) in zip(parts, sums, strict=True)
        ]
        return Results(shaped, keeps)

    def gather(self, parts: Sequence[Part], world: World) -> Results:
        """All ranks' rows of the tensors, in the order of ranks."""
        return self._exchange_all(world.allgather, world.allgather, parts)

    def collectives(self, elements: int, ranks: int) -> list[Collective]:
        """Of a step in which the scale fits, as nearly all do."""
        shard = -(-elements // ranks)
        return [Collective("alltoall", 2 * ranks * shard), Collective("allgather", 2 * shard)]

    def _exchange_all(self, half_collective, collective, parts) -> Results:
        # The state is read once and written once per step. Parts that read and wrote rows of their
        # own would wait for each other, since TensorFlow keeps the order of accesses to a variable.
        before = tf.convert_to_tensor(self._state.value)
        done = [_exchange(half_collective, collective, part, before[part.row]) for part in parts]
        results = [(total, sent) for total, sent, _ in done]
        if not parts:
            return Results(results)
        rows, after = [[part.row] for part in parts], tf.stack([row for _, _, row in done])
        return Results(results, [(self._state, tf.tensor_scatter_nd_update(before, rows, after))])


def _sum_halves(world: World, half: tf.Tensor, name: str) -> tf.Tensor:
    """The sum over ranks, added up in float32, as float16; equal bits on every rank."""
    ranks, length = tf.cast(world.size_tensor(), tf.int32), tf.size(half)
    shard = (length + ranks - 1) // ranks
    padded = tf.pad(half, [[0, ranks * shard - length]])
    shards = world.alltoall(tf.reshape(padded, [ranks, shard]), f"{name}.shards")
    mine = tf.reduce_sum(tf.cast(shards, tf.float32), axis=0)
    return world.allgather(tf.cast(mine, tf.float16), f"{name}.sums")[:length]


def _exchange(half_collective, collective, part, before) -> tuple[tf.Tensor, Sent, tf.Tensor]:
    """(the part's result, what it took, its row of state from `before` to after this step)."""
    tensor, name = part.tensor, part.name
    exact_type = tensor.dtype
    scale = tf.cast(before[0], exact_type)
    elements = tf.cast(tf.size(tensor), tf.float64)

    def exact(more_headroom, bytes_before):
        total = collective(tensor, name)
        largest, finite = _range(total)
        # No finite sum: float32 itself has overflowed, which says nothing of a scale.
        after = tf.where(finite, _scale(largest, before[1] + more_headroom), before)
        return total, after, bytes_before + elements * exact_type.size, tf.constant(False)

    def halved():
        half = tf.cast(tensor * scale, tf.float16)
        total = tf.cast(half_collective(half, f"{name}.half"), exact_type)
        largest, finite = _range(total)
        after = _scale(largest / before[0], before[1] - RECOVERY)
        return tf.cond(
            finite & (largest >= LEAST),
            lambda: (total / scale, after, 2 * elements, tf.constant(True)),
            lambda: exact(tf.where(finite, 0.0, BACK_OFF), 2 * elements),
        )

    unknown = tf.equal(before[0], 0.0)
    none = tf.constant(0.0, tf.float64)
    total, after, sent, was_half = tf.cond(unknown, lambda: exact(0.0, none), halved)

    def versions() -> tuple[tf.Tensor, tf.Tensor]:
        sent_as_half = tf.cast(tf.cast(tensor * scale, tf.float16), exact_type) / scale
        return tensor, tf.where(was_half, sent_as_half, tensor)

    took = Sent(elements * tensor.dtype.size, sent, versions)
    return total, took, after


def _range(tensor: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(the largest absolute value as float32 (), whether all values are finite)."""
    largest = tf.maximum(tf.reduce_max(tf.abs(tensor)), 0)  # 0 of no elements
    # A maximum need not show a NaN on every device.
    return tf.cast(largest, tf.float32), tf.reduce_all(tf.math.is_finite(tensor))


def _scale(largest: tf.Tensor, back_off: tf.Tensor) -> tf.Tensor:
    """The row of state after a sum with this largest element, float32 (2,).

    Made of the bits of float32 (8 of exponent above 23 of fraction), so that it is exact and the
    same on unlike processors.
    """
    back_off = tf.clip_by_value(back_off, 0.0, MOST_BACK_OFF)
    exponent = tf.bitwise.right_shift(tf.bitcast(largest, tf.int32), 23) - 127
    headroom = HEADROOM + tf.cast(tf.math.ceil(back_off), tf.int32)
    wanted = tf.clip_by_value(TOP - 1 - headroom - exponent, -126, 126)
    scale = tf.bitcast(tf.bitwise.left_shift(wanted + 127, 23), tf.float32)
    # Nothing can be said of the scale of zeros.
    return tf.stack([tf.where(largest < SMALLEST_NORMAL, 0.0, scale), back_off])
