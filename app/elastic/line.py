"""A line between two processes of a launch: lines of JSON over a stream socket.

Between the launcher and the agent of each rank it is TCP (launch/line.py), between an agent and its
rank a pair of sockets (app/elastic/door.py). Loads no TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

UNANSWERED_S = 30.0  # data that nobody acknowledged for so long break a line over TCP
LONGEST = 65536


class Line:
    """One end. Any thread may send; one reads."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._lock = threading.Lock()
        connection.settimeout(None)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            unanswered_ms = int(1000 * UNANSWERED_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unanswered_ms)

    def send(self, message: dict[str, Any]) -> bool:
        """Send a message; False if the line is broken."""
        data = json.dumps(message).encode() + b"\n"
        try:
            with self._lock:
                self._connection.sendall(data)
        except OSError:
            return False
        return True

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the other end sends, until the line breaks."""
        with contextlib.suppress(OSError, ValueError), self._connection.makefile("rb") as stream:
            while line := stream.readline(LONGEST):
                message = json.loads(line)
                if not isinstance(message, dict):
                    return
                yield message

    def close(self) -> None:
        """Break the line."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
