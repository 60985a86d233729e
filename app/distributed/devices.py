"""Which GPU, how many threads and which cores a rank uses. Pure choices first, then `configure`."""

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from app.distributed.horovod_world import connect
from app.distributed.options import Knobs
from app.distributed.world import World
from app.doctor.facts import gpus_named
from app.doctor.probe import OK
from app.doctor.software import count_gpus, judge_gpus
from app.elastic.door import DOOR
from app.errors import UserError

LOG = logging.getLogger(__name__)


def choose_gpu(gpus: Sequence[Any], local_rank: int, local_size: int) -> Any | None:
    """The GPU of this local rank, or None on a host without GPUs.

    Raises UserError if there are fewer GPUs than local ranks.
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
    """The cores of this local rank: an equal, contiguous part, or a shared core if there are few.

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
    among local ranks, as many threads as cores. Raises UserError if there are too few GPUs.
    """
    gpus = tf.config.list_physical_devices("GPU")
    # In a world that changes, a place on the host stays what it is.
    number, of_so_many = DOOR.place or (world.local_rank, world.local_size)
    gpu = choose_gpu(gpus, number, of_so_many)
    if gpu is not None:
        tf.config.set_visible_devices(gpu, "GPU")
        tf.config.experimental.set_memory_growth(gpu, True)
    elif of_so_many > 1:
        cores = choose_cores(sorted(os.sched_getaffinity(0)), number, of_so_many)
        tf.config.threading.set_intra_op_parallelism_threads(len(cores))
        tf.config.threading.set_inter_op_parallelism_threads(max(2, len(cores)))
        # Threads that TensorFlow starts from now on inherit this; Horovod's threads keep all cores.
        # Pinning before TensorFlow and Horovod start was slower (NOTES.md).
        os.sched_setaffinity(0, cores)


def unused_gpus(world: World, environ: Mapping[str, str]) -> list[str]:
    """Why ranks of this host leave its GPUs unused, or bypass them when they exchange, and what to
    do about it; nothing where CUDA_VISIBLE_DEVICES hides them all."""
    if gpus_named(environ.get("CUDA_VISIBLE_DEVICES", "all")) == 0:
        return []
    seen = [gpu.name for gpu in tf.config.list_physical_devices("GPU")]
    tensorflow = {"gpus": seen, "cuda": tf.test.is_built_with_cuda()}
    built = None if world.has_nccl is None else {"NCCL": world.has_nccl}
    # Where TensorFlow sees some of the GPUs, somebody chose to hide the others.
    results = judge_gpus(0 if seen else count_gpus(), tensorflow, built)
    return [f"{one.found}. To fix it: {one.advice}" for one in results if one.status != OK]


def warn_of_unused_gpus(world: World) -> None:
    """Have the chief warn once about all hosts whose GPUs are not used; a collective."""
    own = unused_gpus(world, os.environ) if world.local_rank == 0 else []
    hosts: dict[str, list[str]] = {}
    for host, found in world.gather((socket.gethostname(), own)):
        for one in found:
            hosts.setdefault(one, []).append(host)
    for found, names in hosts.items():
        more = f" and {len(names) - 1} more host(s)" if len(names) > 1 else ""
        if world.is_chief:
            LOG.warning("GPUs of %s%s: %s", names[0], more, found)


def connect_configured(
    timeline: bool = False,
    stall_timeout_s: float = 600.0,
    knobs: Knobs | None = None,
    by_host: bool = False,
) -> World:
    """The ranks of the launcher, each with its devices; warns about unused GPUs.

    Arguments: as those of `connect`.
    """
    world = connect(None, timeline, stall_timeout_s, knobs, by_host)
    with world.together():
        configure(world)
    warn_of_unused_gpus(world)
    return world


def describe() -> str:
    """What this rank computes on."""
    gpus = tf.config.get_visible_devices("GPU")
    return f"{len(gpus)} GPU" if gpus else f"{len(os.sched_getaffinity(0))} CPU core(s)"
