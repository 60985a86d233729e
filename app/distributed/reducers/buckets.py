"""Gradients travel in buckets: one flat tensor, one collective, for many variables.

Buckets are filled from the last variable to the first, the order in which backpropagation
produces gradients, so that the first bucket leaves while earlier layers still compute (Li et al.
2020, arXiv:2006.15704).
"""

from collections.abc import Sequence

import tensorflow as tf


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
