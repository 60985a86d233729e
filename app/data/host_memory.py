"""Memory that the ranks of a host share: they fill it together, and it goes with the last of them.

An anonymous file of the kernel (memfd_create(2)): it has no name in any file system, so nothing is
left behind however a rank ends, and the size of /dev/shm does not limit it. Counts as memory. Who
makes it and who opens it, the caller agrees on with the other ranks.
"""

import contextlib
import math
import mmap
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

Offer = tuple[int, int, str]  # process, its handle, token


@dataclass(frozen=True)
class HostMemory:
    """Memory before it is used: of several ranks, or of this one alone (`handle` is None)."""

    token: str
    handle: int | None

    @classmethod
    def private(cls) -> "HostMemory":
        """Memory of this process alone."""
        return cls(f"lockstep-{secrets.token_hex(8)}", None)

    @classmethod
    def shared(cls, size_bytes: int) -> "HostMemory":
        """Memory that others can open; private where the system refuses."""
        memory = cls.private()
        with contextlib.suppress(OSError):  # a sandbox without it
            handle = os.memfd_create(memory.token)
            os.truncate(handle, max(1, size_bytes))
            return cls(memory.token, handle)
        return memory

    @classmethod
    def opened(cls, offers: Iterable[Offer]) -> "HostMemory":
        """The offered memory that is on this host; private if none is."""
        for process, handle, token in offers:
            path = f"/proc/{process}/fd/{handle}"
            with contextlib.suppress(OSError):
                # The number of a process alone could be another's.
                if token in os.readlink(path):
                    return cls(token, os.open(path, os.O_RDWR))
        return cls.private()

    @property
    def offer(self) -> Offer | None:
        """What others need to open it."""
        return None if self.handle is None else (os.getpid(), self.handle, self.token)

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """The memory as uint8, 0 at first; call it once, when everybody has opened it."""
        size = max(1, math.prod(shape))
        if self.handle is None:  # in large pages where the kernel has them
            content = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with contextlib.suppress(OSError):
                content.madvise(mmap.MADV_HUGEPAGE)
        else:
            content = mmap.mmap(self.handle, size)
            os.close(self.handle)
        return np.frombuffer(content, np.uint8)[: math.prod(shape)].reshape(shape)
