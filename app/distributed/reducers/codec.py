"""Codecs: what a tensor looks like while it travels.

Horovod's interface for this is `compress(tensor) -> (tensor, context)` and
`decompress(tensor, context) -> tensor`; its compressors and a user's own are adapted by
`Stateless`. The compressed tensors of all ranks are summed, so a compressor's output must be
something that a sum makes sense of. There is no bfloat16 on Horovod's wire. Our own "fp16" keeps a
scale, which that interface has no place for: half.py.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from app.distributed.reducers.reducer import Collective, Keeps, Sent
from app.distributed.world import World


class Part(NamedTuple):
    """One tensor of a step, the row of a codec's state that is its own, and its collective."""

    tensor: tf.Tensor
    row: int
    name: str


class Results(NamedTuple):
    """Of each part the result and what it took, and the codec's state after this step."""

    parts: list[tuple[tf.Tensor, Sent]]
    keeps: Keeps = ()


class Codec(Protocol):
    """Called with all parts of a step at once.

    `is_exact`: whether a sum is what float32 gives, whatever else is in the tensor, with no state.
    """

    is_exact: bool

    def build(self, rows: int, add_variable: Callable[..., Any]) -> None:
        """Create a state of so many rows, if it needs one."""
        ...

    def sum(self, parts: Sequence[Part], world: World) -> Results:
        """The sums over ranks of the tensors, each of them 1-D."""
        ...

    def gather(self, parts: Sequence[Part], world: World) -> Results:
        """All ranks' rows of the tensors, in the order of ranks."""
        ...

    def collectives(self, elements: int, ranks: int) -> list[Collective]:
        """What `sum` of a tensor of so many float32 hands to collectives."""
        ...


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


class Stateless:
    """Sends what a compressor makes of a tensor. Raises TypeError if it lacks a method."""

    def __init__(self, compressor: Compressor | None = None):
        self.compressor = NoCompression() if compressor is None else compressor
        self.is_exact = isinstance(self.compressor, NoCompression)
        for method in ("compress", "decompress"):
            if not callable(getattr(self.compressor, method, None)):
                raise TypeError(f"compression={compressor!r} has no method {method}()")

    def build(self, rows: int, add_variable: Callable[..., Any]) -> None:
        """There is nothing to keep."""

    def sum(self, parts: Sequence[Part], world: World) -> Results:
        return Results([self._exchange(world.allreduce, part) for part in parts])

    def gather(self, parts: Sequence[Part], world: World) -> Results:
        return Results([self._exchange(world.allgather, part) for part in parts])

    def collectives(self, elements: int, ranks: int) -> list[Collective]:
        payload, _ = self.compressor.compress(tf.zeros(elements))
        return [Collective("allreduce", int(tf.size(payload)) * payload.dtype.size)]

    def _exchange(self, collective, part) -> tuple[tf.Tensor, Sent]:
        payload, context = self.compressor.compress(part.tensor)
        restored = self.compressor.decompress(collective(payload, part.name), context)
        sent = Sent(
            tf.cast(tf.size(part.tensor), tf.float64) * part.tensor.dtype.size,
            tf.cast(tf.size(payload), tf.float64) * payload.dtype.size,
            lambda: (part.tensor, self.compressor.decompress(payload, context)),
        )
        return restored, sent
