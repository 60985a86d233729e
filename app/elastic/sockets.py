"""The connections between ranks, so that they can be cut.

A rank that waits for another survivor does not notice that a third has died, however long it waits
(gloo). Once the connections of all survivors are cut, every collective fails within milliseconds.
It has to be at once: Horovod goes on to its next cycle after a collective that failed, and what it
sends then ends a survivor that still waits for the collective before (an uncaught C++ exception:
gloo tells messages apart by their order only). So each rank watches its own connections.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator

LOOK_S = 1.0  # whether they were forgotten


class Sockets:
    """Those that Horovod has opened in this process. Any thread may cut them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[int, str] = {}  # by descriptor, what proc(5) calls it

    @contextlib.contextmanager
    def noted(self, watches: bool) -> Iterator[None]:
        """The block opens them. `watches`: they are cut as soon as one of them breaks."""
        before = _sockets()
        yield
        with self._lock:
            now = _sockets().items()
            self._opened = {fd: name for fd, name in now if before.get(fd) != name}
            opened = self._opened
        if watches:
            watch = threading.Thread(target=self._watch, args=(opened,), daemon=True)
            watch.start()

    def _watch(self, opened: dict[int, str]) -> None:
        """Until one of them breaks, or they are forgotten."""
        poll = select.poll()
        for descriptor in opened:
            poll.register(descriptor, select.POLLRDHUP)
        while self._opened is opened:
            if poll.poll(1000.0 * LOOK_S):
                self.cut(opened)
                return

    def cut(self, opened: dict[int, str] | None = None) -> None:
        """Shut them down, if they are still these; nothing else happens to them."""
        with self._lock:
            if opened is not None and self._opened is not opened:
                return
            for descriptor, name in self._opened.items():
                with contextlib.suppress(OSError):
                    _cut(descriptor, name)

    def forget(self) -> None:
        """They are about to be closed, and their numbers may be given to others."""
        with self._lock:
            self._opened = {}


def _cut(descriptor: int, name: str) -> None:
    """Shut a socket down. Looks at a copy: another thread may give the number to another one."""
    copy = os.dup(descriptor)
    try:
        if os.readlink(f"/proc/self/fd/{copy}") == name:
            one = socket.socket(fileno=copy)
            try:
                one.shutdown(socket.SHUT_RDWR)
            finally:
                one.detach()
    finally:
        os.close(copy)


def _sockets() -> dict[int, str]:
    """The sockets of this process."""
    found = {}
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself is closed by now
            if (name := os.readlink(f"/proc/self/fd/{descriptor}")).startswith("socket:"):
                found[int(descriptor)] = name
    return found


SOCKETS = Sockets()
