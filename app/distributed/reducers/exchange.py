"""GradientExchange: the weighted mean of all ranks' gradients.

Phases: total weight (one float32 scalar, only if the caller does not know it) -> bucket -> scale
and compress -> sum over ranks -> decompress -> unbucket. Sparse gradients are gathered instead.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.reducers.buckets import flatten, plan_buckets, unflatten
from app.distributed.reducers.compression import Compressor, get_wire
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
        compression: str | Compressor,
        *,
        bucket_bytes: int,
        sparse_as_dense: bool,
        name: str,
    ):
        if bucket_bytes < 1:
            raise ValueError(f"bucket_mb={bucket_bytes / 1e6}: expected a positive size")
        self.world = world
        self.wire = get_wire(compression, world)
        self.bucket_bytes = bucket_bytes
        self.sparse_as_dense = sparse_as_dense
        self.name = name
        self.sent: list[Sent] = []  # by the call that is being traced or has just been made
        self._rows: dict[int, int] = {}

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """Create what the wire keeps from step to step, with Keras' `add_variable`.

        There is a row for each variable. A bucket has that of the first variable in it: which
        gradients share a bucket is known only when there are gradients.
        """
        self._rows = {id(variable): row for row, variable in enumerate(variables)}
        self.wire.build(add_variable, len(variables))

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total_weight: Any
    ) -> tuple[list[Any], tf.Tensor]:
        """(reduced gradients of the variables, total weight as float32 ()); None stays None."""
        shapes = str([tuple(variable.shape) for variable in variables])
        prefix = f"{self.name}.{zlib.crc32(shapes.encode()):08x}"
        self.sent = []
        share, total = self._share(weight, total_weight, prefix)
        rows = [self._rows.get(id(variable), 0) for variable in variables]
        self.wire.begin()
        reduced: list[Any] = list(gradients)
        dense: list[int] = []
        for index, gradient in enumerate(gradients):
            if gradient is None:
                continue
            if isinstance(gradient, tf.IndexedSlices) and not self.sparse_as_dense:
                name = f"{prefix}.sparse.{index}"
                reduced[index] = self._gather(gradient, share, rows[index], name)
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
            row, name = rows[indices[0]], f"{prefix}.bucket.{number}"
            flat, sent = self.wire.sum(flatten(tensors), share, row, name)
            self.sent.append(sent)
            for index, piece in zip(
                indices, unflatten(flat, [t.shape for t in tensors]), strict=True
            ):
                reduced[index] = piece
        self.wire.finish()
        return reduced, total

    def _share(self, weight: Any, total_weight: Any, prefix: str) -> tuple[tf.Tensor, tf.Tensor]:
        """(what this rank's gradients count for, total weight), float32 () each."""
        if weight is None:
            weight, total = tf.constant(1.0), self.world.size_tensor()
        else:
            weight = tf.cast(weight, tf.float32)
            if total_weight is None:
                total = self.world.allreduce(weight, f"{prefix}.weight")
            else:
                total = tf.cast(total_weight, tf.float32)
        return tf.math.divide_no_nan(weight, total), total

    def _gather(
        self, gradient: tf.IndexedSlices, share: tf.Tensor, row: int, name: str
    ) -> tf.IndexedSlices:
        """All ranks' slices, with duplicate indices added up, as optimizers need them."""
        values, sent = self.wire.gather(gradient.values, share, row, f"{name}.values")
        self.sent.append(sent)
        indices = self.world.allgather(gradient.indices, f"{name}.indices")
        return tf.IndexedSlices(*sum_duplicates(values, indices), gradient.dense_shape)


def sum_duplicates(values: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(sums (unique, ...) of the rows (n, ...) of each index, the unique indices (unique,)).

    Every rank adds up for itself, and all must get the same bits. On a GPU TensorFlow adds with
    atomics, in any order, so this is always done by the CPU's kernel, which goes row by row.
    """
    with tf.device("CPU"):
        unique, position = tf.unique(indices)
        return tf.math.unsorted_segment_sum(values, position, tf.size(unique)), unique
