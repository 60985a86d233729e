"""A rank's line to its agent, and so to the supervisor of the run: the door to other worlds.

The supervisor says who is in the next world; a rank says where it is and what it waits for. The
launcher's side, and the messages in a table: launch/elastic.py. Without a supervisor there is no
door, and a failure ends the run. Loads no TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.elastic.line import Line
from app.elastic.sockets import SOCKETS
from app.pulse import PULSE
from app.stop import STOP, Stopped

DOOR_VARIABLE = "LOCKSTEP_DOOR"
ANSWER_S = 5.0
LOOK_S = 0.1
FENCED = 70  # exit code (EX_SOFTWARE) of a rank that its agent has left alone


class Door:
    """This process's. `open()` comes first; until then, and without a supervisor, it is shut.

    `run`: the directory of the run to go on with, if the supervisor has started this process to go
    on; `joins`: as a newcomer, while others train; `place`: (which of the host's places, of how
    many), None if shut; `grows`: whether the world may become another one.
    """

    def __init__(self) -> None:
        self._line: Line | None = None
        self.run: Path | None = None
        self.joins = self.grows = False
        self.place: tuple[int, int] | None = None
        self.newcomers = 0  # who wait to be let in; known to the chief
        self._worlds: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._heard_s = time.monotonic()
        self.world = 0  # the number of the present one

    @property
    def is_open(self) -> bool:
        """Whether there is a supervisor."""
        return self._line is not None

    @property
    def is_outside(self) -> bool:
        """Whether this process has not been let in yet."""
        return self.joins and self.world == 0

    def open(self) -> None:
        """Read what the agent has given; once."""
        # Not for our own children: they might have another file under this number.
        given = os.environ.pop(DOOR_VARIABLE, None)
        if given is None:
            return
        about = json.loads(given)
        self._line = Line(socket.socket(fileno=about["fd"]))
        self.run = Path(about["run"]) if about["run"] else None
        self.joins, self.grows = about["joins"], about["grows"]
        self.place = (about["slot"], about["slots"])
        self._heard_s = time.monotonic()
        for work in (self._listen, lambda: self._fence(about["fence_s"])):
            threading.Thread(target=work, name="door", daemon=True).start()

    def say(self, what: str, value: Any) -> None:
        """Tell the supervisor."""
        if self._line is not None:
            self._line.send({what: value})

    def next_world(self) -> Mapping[str, str]:
        """Horovod's variables of the world that the supervisor puts this rank into, once it does.

        Raises Stopped if this rank is asked to stop meanwhile.
        """
        with PULSE.during("recovery", float("inf")), PULSE.waiting():
            while True:
                with contextlib.suppress(queue.Empty):
                    message = self._worlds.get(timeout=LOOK_S)
                    self.world, self.newcomers = int(message["number"]), 0
                    return message["variables"]
                if STOP.signal is not None:
                    raise Stopped(f"stopped by {STOP.signal.name} while it waited for other ranks")

    def ask(self, ranks: Sequence[int]) -> tuple[bool, list[int]]:
        """These ranks were asked to stop: (whether all stop, else who leaves)."""
        while not self._answers.empty():
            self._answers.get()
        self.say("asks", list(ranks))
        try:
            answer = self._answers.get(timeout=ANSWER_S)
        except queue.Empty:
            return True, []
        return bool(answer["stops"]), [int(rank) for rank in answer["leaves"]]

    def _listen(self) -> None:
        assert self._line is not None
        for message in self._line.messages():
            self._heard_s = time.monotonic()
            if "cut" in message:
                SOCKETS.cut()
            elif "world" in message:
                self._worlds.put(message["world"])
            elif "answer" in message:
                self._answers.put(message["answer"])
            elif "newcomers" in message:
                self.newcomers = int(message["newcomers"])
        os._exit(FENCED)  # the agent is gone

    def _fence(self, limit_s: float) -> None:
        """End this process if nobody speaks to it: others may have gone on without it."""
        every_s = limit_s / 10
        while True:
            began = time.monotonic()
            time.sleep(every_s)
            if time.monotonic() - began > 2 * every_s:  # this process was stopped itself
                self._heard_s = time.monotonic()
            elif time.monotonic() - self._heard_s > limit_s:
                os._exit(FENCED)


DOOR = Door()
