"""Which GPU, how many threads and which cores a rank uses. Pure choices first, then `configure`."""

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from app.distributed.world import World, connect
from app.errors import UserError


def choose_gpu(gpus: Sequence[Any], local_rank: int, local_size: int) -> Any | None:
    """The GPU of this local rank, or None on a host without GPUs.

    Raises UserError for fewer GPUs than local ranks.
    """
    if not gpus:
        return None
    if len(gpus) < local_size:
        raise UserError(
            f"{local_size} ranks on a host with {len(gpus)} visible GPU(s): start at most "
            f"{len(gpus)} there (-np, or slots in the hostfile), or let every rank see all GPUs "
            "of the host (CUDA_VISIBLE_DEVICES; srun: --gpus-per-node, not --gpus-per-task)"
        )
    return gpus[local_rank]


def choose_cores(cores: Sequence[int], local_rank: int, local_size: int) -> list[int]:
    """The cores of this local rank: an equal, contiguous part, or one shared one if too few.

    The remainder of an uneven division goes to the first ranks.
    """
    cores = sorted(cores)
    if len(cores) < local_size:
        return [cores[local_rank % len(cores)]]
    share, rest = divmod(len(cores), local_size)
    start = local_rank * share + min(local_rank, rest)
    return cores[start : start + share + (local_rank < rest)]


def configure(world: World) -> None:
    """Set up TensorFlow for this rank; call it after `connect()` and before any TensorFlow op.

    On a GPU host: one GPU per local rank, with memory growth. On a CPU host: the cores divided
    among local ranks, as many threads as cores. Raises UserError for fewer GPUs than ranks.
    """
    gpus = tf.config.list_physical_devices("GPU")
    gpu = choose_gpu(gpus, world.local_rank, world.local_size)
    if gpu is not None:
        tf.config.set_visible_devices(gpu, "GPU")
        tf.config.experimental.set_memory_growth(gpu, True)
    elif world.local_size > 1:
        cores = choose_cores(sorted(os.sched_getaffinity(0)), world.local_rank, world.local_size)
        tf.config.threading.set_intra_op_parallelism_threads(len(cores))
        tf.config.threading.set_inter_op_parallelism_threads(max(2, len(cores)))
        # Threads that TensorFlow starts from now on inherit this; Horovod's own keep all cores.
        # Pinning before TensorFlow and Horovod start was slower (NOTES.md).
        os.sched_setaffinity(0, cores)


def connect_configured(timeline: bool = False) -> World:
    """The ranks of the launcher, each with its devices."""
    world = connect(timeline=timeline)
    with world.together():
        configure(world)
    return world


def describe() -> str:
    """What this rank computes on."""
    gpus = tf.config.get_visible_devices("GPU")
    return f"{len(gpus)} GPU" if gpus else f"{len(os.sched_getaffinity(0))} CPU core(s)"
