"""The connections between ranks, so that they can be cut.

A rank that waits for another survivor does not notice that a third has died, however long it waits
(gloo). Once the connections of all survivors are cut, every collective fails within milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator


class Sockets:
    """Those that Horovod has opened in this process. Any thread may cut them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[int, str] = {}  # by descriptor, what proc(5) calls it

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """The block opens them."""
        before = _sockets()
        try:
            yield
        finally:
            with self._lock:
                now = _sockets().items()
                self._opened = {fd: name for fd, name in now if before.get(fd) != name}

    def cut(self) -> None:
        """Shut them down; nothing else happens to them."""
        with self._lock:
            now = _sockets()
            for descriptor, name in self._opened.items():
                if now.get(descriptor) != name:
                    continue
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
                    one.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """They are about to be closed, and their numbers may be given to others."""
        with self._lock:
            self._opened = {}


def _sockets() -> dict[int, str]:
    """The sockets of this process."""
    found = {}
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself is closed by now
            if (name := os.readlink(f"/proc/self/fd/{descriptor}")).startswith("socket:"):
                found[int(descriptor)] = name
    return found


SOCKETS = Sockets()
