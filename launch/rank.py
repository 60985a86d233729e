"""The agent of one rank: runs the application as its child, and tells the launcher how it does.

It is small and loads no TensorFlow, so it can answer when the application cannot. Arguments and
directory come in environment variables, since mpirun ends a command at the word ':'. Over ssh the
whole environment comes on standard input (`-`), so that no value is on a command line. The
application ends when its agent does, and the agent when the launcher does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from app.distributed.launcher import read_launcher
from app.elastic.line import Line
from app.errors import STOPPED, USER_ERROR
from app.pulse import PAGE_BYTES, PAGE_VARIABLE, read
from launch.line import DUMP, KILL, LINE_VARIABLE, STOP, call

APPLICATION = [sys.executable, "-P", "-m", "app"]
ON_STDIN = "-"
REPORT_S = 1.0
GRACE_S = 10.0  # between SIGTERM and SIGKILL, once the launcher is gone
SET_PDEATHSIG = 1  # Linux's prctl: send a signal when our parent ends
ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Agent:
    """Watches one child, which has a session of its own."""

    def __init__(self, command: Sequence[str], directory: str, line: Line | None):
        self._line = line
        self._wake: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # None: the line broke
        self._asked = self._told = False
        for number in ASKS:
            signal.signal(number, self._ask)
        page = os.memfd_create("lockstep-pulse")
        os.ftruncate(page, PAGE_BYTES)
        self._page = mmap.mmap(page, PAGE_BYTES)
        prctl = ctypes.CDLL(None).prctl
        self._child = subprocess.Popen(
            list(command),
            cwd=directory,
            env={**os.environ, PAGE_VARIABLE: str(page)},
            stdin=subprocess.DEVNULL,
            pass_fds=[page],
            start_new_session=True,
            # No thread has been started yet.
            preexec_fn=lambda: prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        )
        os.close(page)

    def run(self) -> int:
        """Until the child ends; returns its exit status as a shell gives it."""
        threading.Thread(target=self._wait, daemon=True).start()
        if self._line:
            threading.Thread(target=self._listen, args=(self._line,), daemon=True).start()
        self._report()
        kill_at = float("inf")
        reported = time.monotonic()
        while self._child.returncode is None:
            with contextlib.suppress(queue.Empty):
                order = self._wake.get(timeout=REPORT_S / 4)
                if order is None and kill_at == float("inf"):
                    kill_at = time.monotonic() + GRACE_S
                self._obey(order)
            if self._asked:
                self._obey(STOP)
            if time.monotonic() > kill_at:
                self._obey(KILL)
            if time.monotonic() - reported >= REPORT_S:
                self._report()
                reported = time.monotonic()
        code = self._child.returncode
        status = code if code >= 0 else 128 - code
        reading = read(self._page)
        if code == -signal.SIGTERM and self._told and (not reading or reading.phase == "start"):
            status = STOPPED  # it was asked to before it could listen
        if self._line:
            self._line.send({"ended": status})
        return status

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _wait(self) -> None:
        self._child.wait()
        self._wake.put("")

    def _listen(self, line: Line) -> None:
        for message in line.messages():
            self._wake.put(str(message.get("do")))
        self._wake.put(None)

    def _obey(self, order: str | None) -> None:
        """Do what the launcher says. None, the launcher is gone: as if it said to stop."""
        with contextlib.suppress(ProcessLookupError):
            if order in (STOP, None) and not self._told:
                self._told = True  # once: a second SIGTERM would end the rank without a checkpoint
                self._child.send_signal(signal.SIGTERM)
            elif order == DUMP:
                self._child.send_signal(signal.SIGUSR1)  # app/monitor/logs.py
                self._child.send_signal(signal.SIGCONT)  # in case it is stopped
            elif order == KILL:
                os.killpg(self._child.pid, signal.SIGKILL)

    def _report(self) -> None:
        reading = read(self._page)
        said: dict[str, Any] = reading._asdict() if reading else {}
        asked = self._asked or bool(reading and reading.wants_stop)
        if self._line:
            self._line.send({"reading": said, "state": state(self._child.pid), "asked": asked})


def state(pid: int) -> str:
    """The letter of a process's state, of proc(5): T stopped, D uninterruptible; "" if gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def main(arguments: Sequence[str]) -> int:
    """Run the application; returns its exit code."""
    if list(arguments) == [ON_STDIN]:
        os.environ.update(json.loads(sys.stdin.readline()))
    where = os.environ.pop(LINE_VARIABLE)
    command = [*APPLICATION, *json.loads(os.environ["LOCKSTEP_ARGUMENTS"])]
    directory = os.environ["LOCKSTEP_DIRECTORY"]
    try:
        line = call(where, read_launcher().rank)
    except OSError as error:
        print(f"error: the launcher does not answer at {where.rpartition(':')[0]}: {error}")
        return 1
    try:
        agent = Agent(command, directory, line)
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
