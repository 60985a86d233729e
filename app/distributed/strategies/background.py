"""What runs beside the training: one piece of work in a thread, and collectives that leave room."""

import threading
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from app.distributed.world import World

# A collective that others ask for meanwhile waits for one piece: 20 ms at 200 Mbit/s.
PIECE_BYTES = 500_000


class Background:
    """One piece of work at a time, in a thread that does not keep the process from ending."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], Any]) -> None:
        """Begin; what was begun before has been waited for."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # told to whoever waits
                self._error = error

        self._error = None
        self._thread = threading.Thread(target=run, name="exchange of a round", daemon=True)
        self._thread.start()

    def wait(self) -> float:
        """Until the work is done; returns the seconds that this took, 0 if none was begun.

        Raises RuntimeError if the work failed.
        """
        if self._thread is None:
            return 0.0
        begun = time.perf_counter()
        self._thread.join()
        self._thread = None
        if self._error is not None:
            raise RuntimeError(f"the exchange of a round failed: {self._error}") from self._error
        return time.perf_counter() - begun

    def abandon(self) -> None:
        """Until the work has ended, however it ends."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


class OneByOne(World):
    """The collectives of another world, each of which begins when the last has ended; large sums
    in pieces. Of collectives in branches of a graph, those of one branch."""

    def __init__(self, world: World):
        self.rank, self.size = world.rank, world.size
        self.local_rank, self.local_size = world.local_rank, world.local_size
        self.backend, self.has_nccl = world.backend, world.has_nccl
        self._world = world
        self._last: tf.Tensor | None = None

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        tensor = tf.convert_to_tensor(tensor)
        length = PIECE_BYTES // tensor.dtype.size
        if (tensor.shape.num_elements() or 0) <= length:  # or of unknown size
            return self._next(self._world.allreduce, tensor, name)
        flat = tf.reshape(tensor, [-1])
        sums = [
            self._next(
                self._world.allreduce, flat[start : start + length], f"{name}.{start // length}"
            )
            for start in range(0, flat.shape[0], length)
        ]
        return tf.reshape(tf.concat(sums, axis=0), tensor.shape)

    def allmax(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return self._next(self._world.allmax, tensor, name)

    def allgather(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return self._next(self._world.allgather, tensor, name)

    def alltoall(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return self._next(self._world.alltoall, tensor, name)

    def size_tensor(self) -> tf.Tensor:
        return self._world.size_tensor()

    def _next(self, collective: Callable, tensor: tf.Tensor, name: str) -> tf.Tensor:
        if tf.executing_eagerly():
            return collective(tensor, name)
        graph = tf.compat.v1.get_default_graph()
        waits_for = [] if self._last is None or self._last.graph is not graph else [self._last]
        with tf.control_dependencies(waits_for):
            self._last = collective(tf.identity(tensor), name)
        return self._last
