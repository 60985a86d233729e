"""The line between the launcher and the agent of each rank: lines of JSON over TCP.

Agent to launcher: hello, then a report a second, what the rank says, and how it ended. Launcher to
agent: what to do with the rank, and what to tell it. A token that only they know comes first, since
any process may connect.
"""

from __future__ import annotations

import hmac
import socket
from typing import Any

from app.elastic.line import Line

LINE_VARIABLE = "LOCKSTEP_LINE"  # ADDRESS:PORT:TOKEN
# JSON: what an agent that may start its rank again knows of its place, then what it tells the rank.
DOOR_VARIABLE = "LOCKSTEP_DOOR"
CONNECT_S = 20.0
STOP, DUMP, KILL = "stop", "dump", "kill"  # what an agent can be told
START, TELL, PING, LEAVE = "start", "tell", "ping", "leave"  # the same, if ranks are recovered
FENCE = 2 / 3  # of the time after which an agent without a word counts as lost, it ends its rank


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
