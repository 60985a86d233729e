"""Compressors: what a gradient looks like while it travels.

Their interface is Horovod's, `compress(tensor) -> (tensor, context)` and
`decompress(tensor, context) -> tensor`, so its compressors and a user's own work as well. The
compressed tensors of all ranks are summed, so a compressor's output must be something that a sum
makes sense of. There is no bfloat16 on Horovod's wire. Our own "fp16" keeps a scale, which this
interface has no place for: half.py.
"""

from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

from app.distributed.reducers.half import ScaledHalf
from app.distributed.telemetry import Sent
from app.distributed.world import World

NAMES = ("none", "fp16")


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


class Compressed:
    """A wire that sends what a compressor makes of a tensor; has no state."""

    def __init__(self, world: World, compressor: Compressor):
        self.world = world
        self.compressor = compressor

    def build(self, add_variable: Callable[..., Any], rows: int) -> None:
        """There is nothing to keep."""

    def begin(self) -> None:
        """Before the first tensor of a step."""

    def finish(self) -> None:
        """After the last tensor of a step."""

    def sum(
        self, tensor: tf.Tensor, share: tf.Tensor, row: int, name: str
    ) -> tuple[tf.Tensor, Sent]:
        """(the sum over ranks of `share * tensor`, what it took)."""
        return self._exchange(self.world.allreduce, tensor, share, name)

    def gather(
        self, tensor: tf.Tensor, share: tf.Tensor, row: int, name: str
    ) -> tuple[tf.Tensor, Sent]:
        """(all ranks' rows of `share * tensor`, what it took)."""
        return self._exchange(self.world.allgather, tensor, share, name)

    def _exchange(self, collective, tensor, share, name) -> tuple[tf.Tensor, Sent]:
        # A rank without examples may hold NaN (the mean of nothing); 0 * NaN must be 0 here.
        scaled = tf.math.multiply_no_nan(tensor, tf.cast(share, tensor.dtype))
        payload, context = self.compressor.compress(scaled)
        restored = self.compressor.decompress(collective(payload, name), context)
        sent = Sent(
            tf.cast(tf.size(scaled), tf.float64) * scaled.dtype.size,
            tf.cast(tf.size(payload), tf.float64) * payload.dtype.size,
            lambda: (scaled, self.compressor.decompress(payload, context)),
        )
        return restored, sent


def get_wire(compression: str | Compressor, world: World) -> Compressed | ScaledHalf:
    """How tensors travel: by a compression's name, or by a Horovod-style object itself.

    Raises ValueError for an unknown name, TypeError for an object that lacks the two methods.
    """
    if isinstance(compression, str):
        if compression not in NAMES:
            raise ValueError(f"compression={compression!r}: expected one of {list(NAMES)}")
        return ScaledHalf(world) if compression == "fp16" else Compressed(world, NoCompression())
    for method in ("compress", "decompress"):
        if not callable(getattr(compression, method, None)):
            raise TypeError(f"compression={compression!r} has no method {method}(): see Compressor")
    return Compressed(world, compression)
