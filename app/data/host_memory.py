"""Memory that the ranks of a host share: they fill it together, and it goes with the last of them.

An anonymous file of the kernel (memfd_create(2)): it has no name in any file system, so nothing is
left behind however a rank ends, and the size of /dev/shm does not limit it. Counts as memory.
"""

import contextlib
import logging
import math
import mmap
import os
import secrets
from typing import Any, NamedTuple

import numpy as np


class HostMemory(NamedTuple):
    """Uint8 `array`, 0 at first, which `parts` ranks of this host share; this one is `part`."""

    array: np.ndarray
    part: int
    parts: int


def share_memory(shape: tuple[int, ...], world: Any) -> HostMemory:
    """Memory of all ranks of a host, or a rank's own where they cannot share; a collective."""
    size, token, handle = max(1, math.prod(shape)), f"lockstep-{secrets.token_hex(8)}", None
    if world.local_size > 1 and world.local_rank == 0:
        with contextlib.suppress(OSError):  # a sandbox without it
            handle = os.memfd_create(token)
            os.truncate(handle, size)
    offers = world.gather(None if handle is None else (os.getpid(), handle, token))
    if world.local_rank:
        handle, token = _open([offer for offer in offers if offer]) or (None, token)
    mine = [rank for rank, of in enumerate(world.gather(token)) if of == token]
    if len(mine) < world.local_size:
        logging.getLogger(__name__).warning(
            "the ranks of this host cannot share memory, so each decodes and keeps all images: "
            "start them in one container, as one user"
        )
    if handle is None:  # memory of this process, in large pages where the kernel has them
        content = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):
            content.madvise(mmap.MADV_HUGEPAGE)
    else:
        content = mmap.mmap(handle, size)
        os.close(handle)  # everybody has opened it
    array = np.frombuffer(content, np.uint8)[: math.prod(shape)].reshape(shape)
    return HostMemory(array, mine.index(world.rank), len(mine))


def _open(offers: list[tuple[int, int, str]]) -> tuple[int, str] | None:
    """The file of these that is on this host: the number of a process alone could be another's."""
    for process, handle, token in offers:
        path = f"/proc/{process}/fd/{handle}"
        with contextlib.suppress(OSError):
            if token in os.readlink(path):
                return os.open(path, os.O_RDWR), token
    return None
