"""Stateless compressors: what a gradient looks like while it travels.

The interface is Horovod's, `compress(tensor) -> (tensor, context)` and
`decompress(tensor, context) -> tensor`, so its compressors and a user's own work as well. The
compressed tensors of all ranks are summed, so a compressor's output must be something that a sum
makes sense of. There is no bfloat16 on Horovod's wire.
"""

from typing import Any, Protocol

import tensorflow as tf


class Compressor(Protocol):
    """Horovod's compressor interface."""

    def compress(self, tensor: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """The tensor to send, and what `decompress` needs."""
        ...

    def decompress(self, tensor: tf.Tensor, context: Any) -> tf.Tensor:
        """The received sum in the type that was given to `compress`."""
        ...


class NoCompression:
    """Gradients travel as they are."""

    def compress(self, tensor: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return tensor, None

    def decompress(self, tensor: tf.Tensor, context: Any) -> tf.Tensor:
        return tensor


class FP16Compression:
    """Floating-point gradients travel, and are summed, as float16 (arXiv:1710.03740)."""

    def compress(self, tensor: tf.Tensor) -> tuple[tf.Tensor, Any]:
        if not tensor.dtype.is_floating:
            return tensor, tensor.dtype
        return tf.cast(tensor, tf.float16), tensor.dtype

    def decompress(self, tensor: tf.Tensor, context: Any) -> tf.Tensor:
        return tf.cast(tensor, context)


COMPRESSORS: dict[str, type[NoCompression] | type[FP16Compression]] = {
    "none": NoCompression,
    "fp16": FP16Compression,
}


def get_compressor(compression: str | Compressor) -> Compressor:
    """A compressor by its name, or the given Horovod-style object itself.

    Raises ValueError for an unknown name, TypeError for an object that lacks the two methods.
    """
    if isinstance(compression, str):
        if compression not in COMPRESSORS:
            raise ValueError(f"compression={compression!r}: expected one of {list(COMPRESSORS)}")
        return COMPRESSORS[compression]()
    for method in ("compress", "decompress"):
        if not callable(getattr(compression, method, None)):
            raise TypeError(f"compression={compression!r} has no method {method}(): see Compressor")
    return compression
