"""The line between the launcher and the agent of each rank: lines of JSON over TCP.

Agent to launcher: hello, then a report a second, then how the rank ended. Launcher to agent: what
to do with the rank. A token that only they know comes first, since any process may connect.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

LINE_VARIABLE = "LOCKSTEP_LINE"  # ADDRESS:PORT:TOKEN
CONNECT_S = 20.0
UNANSWERED_S = 30.0  # data that nobody acknowledged for so long break the line
LONGEST = 65536
STOP, DUMP, KILL = "stop", "dump", "kill"  # what an agent can be told


class Line:
    """One end. Any thread may send; one reads."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._lock = threading.Lock()
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * UNANSWERED_S))

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


def call(where: str, rank: int) -> Line:
    """The agent's end. Raises OSError if nobody answers."""
    address, port, token = where.rsplit(":", 2)
    line = Line(socket.create_connection((address, int(port)), timeout=CONNECT_S))
    line.send({"token": token, "rank": rank})
    return line


def greeting(message: dict[str, Any], token: str, ranks: int) -> int | None:
    """The rank that an agent's first message names; None if it is not one of our agents."""
    rank = message.get("rank")
    if not hmac.compare_digest(str(message.get("token")).encode(), token.encode()):
        return None
    return rank if isinstance(rank, int) and 0 <= rank < ranks else None
