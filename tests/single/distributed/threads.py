"""Ranks that are threads of this process: what codecs and reducers do between them, eagerly."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from app.distributed.reducers.reducer import Collective
from app.distributed.world import World

THREADS = 8


class ThreadRank(World):
    """One of up to eight ranks; each of them sends what many ranks that have the same would."""

    def __init__(
        self, rank: int, threads: int, copies: int, barrier: threading.Barrier, desk: dict
    ):
        self.rank, self.size, self.threads = rank, threads * copies, threads
        self.copies, self.barrier, self.desk = copies, barrier, desk
        self.called: list[Collective] = []

    def swap(self, kind: str, tensor: tf.Tensor, name: str) -> list[np.ndarray]:
        """Every thread's tensor, in the order of ranks."""
        self.called.append(Collective(kind, tensor.numpy().nbytes))
        self.desk[self.rank] = name, tensor.numpy()
        self.barrier.wait(30)
        names, arrays = zip(*(self.desk[rank] for rank in range(self.threads)), strict=True)
        self.barrier.wait(30)
        assert len(set(names)) == 1, f"ranks are in different collectives: {names}"
        return list(arrays)

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        total = np.sum([a.astype(np.float64) for a in self.swap("allreduce", tensor, name)], axis=0)
        return tf.constant((total * self.copies).astype(tensor.dtype.as_numpy_dtype))

    def allmax(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return tf.constant(np.max(self.swap("allmax", tensor, name), axis=0))

    def allgather(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return tf.constant(np.concatenate(self.swap("allgather", tensor, name)))

    def alltoall(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        mine = [array[self.rank] for array in self.swap("alltoall", tensor, name)]
        return tf.constant(np.repeat(mine, self.copies, axis=0))

    def size_tensor(self) -> tf.Tensor:
        return tf.constant(float(self.threads))


def on_ranks(ranks: int, work: Callable[[ThreadRank], object]) -> list:
    """`work(world)` on every rank at the same time; their results."""
    threads = min(ranks, THREADS)
    barrier, desk = threading.Barrier(threads), {}

    def of(rank: int) -> object:
        try:
            return work(ThreadRank(rank, threads, ranks // threads, barrier, desk))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(of, range(threads)))
