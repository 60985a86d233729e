"""GradientExchange: the weighted mean of all ranks' gradients.

Phases: total weight (one float32 scalar, only if the caller does not know it) -> scale -> bucket
-> compress -> sum over ranks -> decompress -> unbucket. Sparse gradients are gathered instead.
"""

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from app.distributed.buckets import flatten, plan_buckets, unflatten
from app.distributed.compression import Compressor
from app.distributed.telemetry import Sent
from app.distributed.world import World


class GradientExchange:
    """Callable on a list of gradients; returns them as all ranks' weighted mean.

    Collectives of different ranks find each other by their names. Keras' automatic names count
    what a process has made, and one rank may have made more, so the names here come from `name`
    and the shapes of the variables. Two optimizers of equal shapes that exchange at the same time
    need a `name` each; Horovod says so (duplicate tensor name).
    """

    def __init__(
        self,
        world: World,
        compressor: Compressor,
        *,
        bucket_bytes: int,
        sparse_as_dense: bool,
        predivide_factor: float | None,
        name: str,
    ):
        if bucket_bytes < 1:
            raise ValueError(f"bucket_mb={bucket_bytes / 1e6}: expected a positive size")
        self.world = world
        self.compressor = compressor
        self.bucket_bytes = bucket_bytes
        self.sparse_as_dense = sparse_as_dense
        self.predivide_factor = predivide_factor
        self.name = name
        self.sent: list[Sent] = []  # by the call that is being traced or has just been made

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total_weight: Any
    ) -> tuple[list[Any], tf.Tensor]:
        """(reduced gradients of the variables, total weight as float32 ()); None stays None."""
        shapes = str([tuple(variable.shape) for variable in variables])
        prefix = f"{self.name}.{zlib.crc32(shapes.encode()):08x}"
        self.sent = []
        before, after, total = self._scales(weight, total_weight, prefix)
        reduced: list[Any] = list(gradients)
        dense: list[int] = []
        for index, gradient in enumerate(gradients):
            if gradient is None:
                continue
            if isinstance(gradient, tf.IndexedSlices) and not self.sparse_as_dense:
                reduced[index] = self._gather(gradient, before, after, f"{prefix}.sparse.{index}")
            else:
                dense_gradient = tf.convert_to_tensor(gradient)
                reduced[index] = tf.ensure_shape(dense_gradient, variables[index].shape)
                dense.append(index)
        sizes = [
            (reduced[i].dtype.name, reduced[i].dtype.size * reduced[i].shape.num_elements())
            for i in dense
        ]
        for number, bucket in enumerate(plan_buckets(sizes, self.bucket_bytes)):
            indices = [dense[i] for i in bucket]
            tensors = [reduced[i] for i in indices]
            flat = self._sum(flatten(tensors), before, after, f"{prefix}.bucket.{number}")
            for index, piece in zip(
                indices, unflatten(flat, [t.shape for t in tensors]), strict=True
            ):
                reduced[index] = piece
        return reduced, total

    def _scales(
        self, weight: Any, total_weight: Any, prefix: str
    ) -> tuple[tf.Tensor, Any, tf.Tensor]:
        """(factor before the sum, factor after it or None, total weight)."""
        size = self.world.size_tensor()
        if weight is None:
            weight, total = tf.constant(1.0), size
        else:
            weight = tf.cast(weight, tf.float32)
            if total_weight is None:
                total = self.world.allreduce(weight, f"{prefix}.weight")
            else:
                total = tf.cast(total_weight, tf.float32)
        share = tf.math.divide_no_nan(weight, total)
        if self.predivide_factor is None:
            return share, None, total
        factor = tf.constant(float(self.predivide_factor))
        return share * size / factor, factor / size, total

    def _sum(self, flat: tf.Tensor, before: tf.Tensor, after: Any, name: str) -> tf.Tensor:
        # A rank without examples may hold NaN (the mean of nothing); 0 * NaN must be 0 here.
        scaled = tf.math.multiply_no_nan(flat, tf.cast(before, flat.dtype))
        payload, context = self._compress(scaled)
        total = self.world.allreduce(payload, name)
        restored = self.compressor.decompress(total, context)
        return restored if after is None else restored * tf.cast(after, restored.dtype)

    def _compress(self, tensor: tf.Tensor) -> tuple[tf.Tensor, Any]:
        payload, context = self.compressor.compress(tensor)
        restore = functools.partial(self.compressor.decompress, payload, context)
        self.sent.append((tensor, payload, restore))
        return payload, context

    def _gather(
        self, gradient: tf.IndexedSlices, before: tf.Tensor, after: Any, name: str
    ) -> tf.IndexedSlices:
        """All ranks' slices, with duplicate indices added up, as optimizers need them."""
        values = tf.math.multiply_no_nan(gradient.values, tf.cast(before, gradient.values.dtype))
        payload, context = self._compress(values)
        payload = self.world.allgather(payload, f"{name}.values")
        values = self.compressor.decompress(payload, context)
        if after is not None:
            values *= tf.cast(after, values.dtype)
        indices = self.world.allgather(gradient.indices, f"{name}.indices")
        unique, position = tf.unique(indices)
        summed = tf.math.unsorted_segment_sum(values, position, tf.size(unique))
        return tf.IndexedSlices(summed, unique, gradient.dense_shape)
