"""The agent of one rank: runs the application as its child, and tells the launcher how it does.

It is small and loads no TensorFlow, so it can answer when the application cannot. Arguments and
directory come in environment variables, since mpirun ends a command at the word ':'. What other
users of a host may not see comes on standard input (`-`): over ssh the whole environment. The
application ends when its agent does, and the agent when the launcher does.

Where ranks are recovered (launch/elastic.py), it carries messages between the launcher and the
door of its rank, starts the rank again when told to, and ends it if the launcher is out of reach.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from app.distributed.launcher import MEETING, read_launcher
from app.doctor.software import count_gpus
from app.elastic.line import Line
from app.errors import USER_ERROR
from launch.child import Started
from launch.forks import Forks
from launch.line import (
    DOOR_VARIABLE,
    DUMP,
    FENCE,
    KILL,
    LEAVE,
    LINE_VARIABLE,
    PING,
    START,
    STOP,
    TELL,
    call,
)

APPLICATION = [sys.executable, "-P", "-m", "app"]
ON_STDIN = "-"
REPORT_S = 1.0
GRACE_S = 10.0  # between SIGTERM and SIGKILL, once the launcher is gone
ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Agent:
    """Watches one child, and starts it again if told to. `door`: what the child is told of its
    place; None: there is no recovery, and we end with the child."""

    def __init__(
        self,
        command: Sequence[str],
        directory: str,
        line: Line | None,
        door: dict[str, Any] | None = None,
    ):
        self._command, self._directory, self._line, self._door = command, directory, line, door
        self._wake: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()  # None: broken
        self._asked = self._left = False
        self._kill_at = float("inf")
        self._word_s = time.monotonic()
        self._fence_s = float(door["fence_s"]) if door else float("inf")
        self._report_s = min(REPORT_S, self._fence_s / FENCE / 6)
        for number in ASKS:
            signal.signal(number, self._ask)
        stopped_s = self._fence_s / FENCE  # as for a rank
        self._forks = Forks(command, directory, stopped_s) if door and not count_gpus() else None
        self._rank = self._start()

    def run(self) -> int:
        """Until the child ends, or we are told to leave; returns its status as a shell gives it."""
        if self._line:
            threading.Thread(target=self._listen, args=(self._line,), daemon=True).start()
        reported = float("-inf")
        while not self._left:
            if time.monotonic() - reported >= self._report_s:
                reported = time.monotonic()
                self._send(self._rank.report(self._asked))
            with contextlib.suppress(queue.Empty):
                self._obey(self._wake.get(timeout=self._report_s / 4))
            self._look()
        self._rank.child.kill_all()
        if self._forks:
            self._forks.end()
        return self._rank.status or 0

    def _look(self) -> None:
        """Do what is due now."""
        now = time.monotonic()
        if self._asked:
            self._stop()
        if now > self._kill_at or now - self._word_s > self._fence_s:
            self._rank.child.kill_all()
            self._left = self._left or self._door is not None  # the launcher counts us as lost
        if self._rank.is_refused and self._forks:
            self._forks.end()
            self._forks = None
            self._rank = self._start()
        status = self._rank.status
        if status is not None and not self._rank.told:
            self._rank.told = True
            self._send({"ended": status})
            self._left = self._left or self._door is None or self._kill_at < float("inf")

    def _start(self) -> Started:
        """Start the child."""
        say, wake = self._say, self._wake_up
        return Started(self._command, self._directory, self._door, say, wake, self._forks)

    def _say(self, message: dict[str, Any]) -> None:
        self._send({"said": message})

    def _send(self, message: dict[str, Any]) -> None:
        if self._line:
            self._line.send(message)

    def _wake_up(self) -> None:
        self._wake.put({})

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _listen(self, line: Line) -> None:
        for message in line.messages():
            self._word_s = time.monotonic()
            self._wake.put(message)
        self._wake.put(None)

    def _obey(self, message: dict[str, Any] | None) -> None:
        """Do what the launcher says. None, the launcher is gone: as if it said to stop."""
        order = message.get("do") if message is not None else STOP
        if message is None:
            self._kill_at = min(time.monotonic() + GRACE_S, self._word_s + self._fence_s)
        if order == STOP:
            self._stop()
        elif order == DUMP:
            self._signal(signal.SIGUSR1)  # app/monitor/logs.py
            self._signal(signal.SIGCONT)  # in case it is stopped
        elif order == KILL:
            self._rank.child.kill_all()
        elif order == LEAVE:
            self._left = True
        elif message and order in (TELL, PING):
            self._rank.tell(message["message"] if order == TELL else {"ping": True})
        elif message and order == START and self._rank.told:
            for name in MEETING:  # a rank that is alone in its world is told of none
                os.environ.pop(name, None)
            os.environ.update(message["environ"])
            self._door = json.loads(os.environ.pop(DOOR_VARIABLE))
            self._rank = self._start()

    def _stop(self) -> None:
        """Ask the child to stop, once."""
        if not self._rank.asked:
            self._rank.asked = True
            self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._rank.child.send_signal(number)


def main(arguments: Sequence[str]) -> int:
    """Run the application; returns its exit code."""
    if list(arguments) == [ON_STDIN]:
        os.environ.update(json.loads(sys.stdin.readline()))
    where = os.environ.pop(LINE_VARIABLE)
    door = json.loads(os.environ.pop(DOOR_VARIABLE, "null"))
    command = [*APPLICATION, *json.loads(os.environ["LOCKSTEP_ARGUMENTS"])]
    directory = os.environ["LOCKSTEP_DIRECTORY"]
    try:
        line = call(where, door["place"] if door else read_launcher().rank)
    except OSError as error:
        print(f"error: the launcher does not answer at {where.rpartition(':')[0]}: {error}")
        return 1
    try:
        agent = Agent(command, directory, line, door)
    except OSError as error:
        print(f"error: the working directory {directory}: {error.strerror}", file=sys.stderr)
        line.send({"ended": USER_ERROR})
        return USER_ERROR
    status = agent.run()
    # The launcher knows the status, and ends the others if need be. mpirun would do so at the first
    # that is not 0, and cut off what they still print.
    return status if read_launcher().launcher == "horovodrun" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
