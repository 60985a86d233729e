"""An agent as its rank sees it: the other end of the door."""

import json
import socket
from typing import Any

import pytest

from app.elastic.door import DOOR_VARIABLE, Door
from app.elastic.line import Line

_OPEN: list[Line] = []  # for as long as we live: a rank whose agent hangs up ends


class Agent:
    """Opens a door for this process. `fence_s`, `about`: what it is told of its place."""

    def __init__(self, patch: pytest.MonkeyPatch, fence_s: float = 600.0, **about: Any):
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        self._line, self._stream = Line(ours), ours.makefile("rb")
        _OPEN.append(self._line)
        told = {"run": None, "joins": False, "grows": True, "slot": 0, "slots": 1, **about}
        told |= {"fd": theirs.detach(), "fence_s": fence_s}
        patch.setenv(DOOR_VARIABLE, json.dumps(told))
        self.door = Door()
        self.door.open()

    def tells(self, message: dict[str, Any]) -> None:
        assert self._line.send(message)

    def hears(self) -> dict[str, Any]:
        """The next message of the rank."""
        return json.loads(self._stream.readline())
