"""How an agent makes the process of its rank: a fresh one, or a fork of one that has imported
TensorFlow already (app/elastic/forks.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from app.elastic.forks import FORKS_VARIABLE, MOST_BYTES
from launch.process import ENDED, Child, state
from launch.watch import STOPPED

READY_S, FORK_S = 120.0, 10.0  # for the imports; for a fork
LOOK_S = 0.25


class Forks:
    """A process to fork ranks from; see app/elastic/forks.py. Start it from the main thread.

    `stopped_s`: how long it may be stopped (SIGSTOP); after that there is nothing to be had of it.
    """

    def __init__(self, command: Sequence[str], directory: str, stopped_s: float):
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own = {FORKS_VARIABLE: str(theirs.fileno())}
        try:
            self.process = Child(command, directory, {**os.environ, **own}, [theirs.fileno()])
        finally:
            theirs.close()
        threading.Thread(target=self.process.wait, daemon=True).start()
        self._stopped_s = stopped_s
        self._is_ready = self._has_failed = False
        self.turn = threading.Lock()

    def fork(self, environ: Mapping[str, str], descriptors: Sequence[int]) -> int:
        """A child's number. Raises OSError if there is none to be had, and from then on."""
        if self._has_failed:
            raise OSError("the process to fork from has failed before")
        self._has_failed = True
        if not self._is_ready:
            if self._hear(READY_S)["threads"] > 1:
                raise OSError("a thread runs in the process to fork from")
            self._is_ready = True
        asked = json.dumps({"environ": dict(environ)}).encode()
        socket.send_fds(self._control, [asked], list(descriptors))
        pid = int(self._hear(FORK_S)["pid"])
        self._has_failed = False
        return pid

    def wait(self, child: int) -> int:
        """Until the child has ended; its exit code, as of subprocess.Popen. If the process that it
        was forked from has ended, so has the child."""
        try:
            return int(self._hear(child=child)["code"])
        except OSError:
            self._has_failed = True
            return -signal.SIGKILL

    def end(self) -> None:
        """End it, and its child."""
        self.process.kill_all()

    def _hear(self, limit_s: float = float("inf"), child: int = 0) -> dict[str, Any]:
        """What it says next. Raises OSError if it says nothing for so long, or is stopped: where we
        wait for the end of a child, only once that has ended."""
        self._control.settimeout(LOOK_S)
        began = ran = time.monotonic()
        while True:
            try:
                data = self._control.recv(MOST_BYTES)
                break
            except TimeoutError:
                now = time.monotonic()
                if state(self.process.pid) != STOPPED or (child and state(child) not in ENDED):
                    ran = now
                if now - began > limit_s or now - ran > self._stopped_s:
                    raise OSError("the process to fork from does not answer") from None
        if not data:
            raise OSError("the process to fork from has ended")
        return dict(json.loads(data))


class Forked:
    """A child that is forked, as soon as it can be; otherwise as `Child`. `is_refused`: it cannot
    be forked."""

    def __init__(self, forks: Forks, environ: Mapping[str, str], descriptors: Sequence[int]):
        self._forks = forks
        self._lock = threading.Lock()
        self._early: list[int] = []  # signals from before it was there
        self._done = threading.Event()
        self.pid = 0
        self.returncode: int | None = None
        self.is_refused = False
        kept = [os.dup(one) for one in descriptors]
        threading.Thread(target=self._live, args=(dict(environ), kept), daemon=True).start()

    def wait(self) -> int:
        """Until it has ended."""
        self._done.wait()
        return self.returncode or 0

    def send_signal(self, number: int) -> None:
        """To this process, if it has not ended; if it is not there yet, as soon as it is."""
        with self._lock:
            if not self.pid:
                self._early.append(number)
            elif self.returncode is None:
                os.kill(self.pid, number)

    def kill_all(self) -> None:
        """SIGKILL to it and to all processes of its group."""
        with self._lock:
            if self.returncode is not None:
                return
            if not self.pid:  # as soon as it is there, and it counts as ended now
                self._early.append(signal.SIGKILL)
                self._end(-signal.SIGKILL)
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _end(self, code: int) -> None:
        if self.returncode is None:
            self.returncode = code
        self._done.set()

    def _live(self, environ: dict[str, str], descriptors: list[int]) -> None:
        with self._forks.turn:  # the child before has ended
            try:
                pid = self._forks.fork(environ, descriptors)
            except (OSError, KeyError):
                with self._lock:
                    self.is_refused = self.returncode is None
                    self._end(-signal.SIGKILL)
                return
            finally:
                for one in descriptors:
                    os.close(one)
            with self._lock:
                self.pid = pid
                for number in self._early:
                    os.kill(pid, number)
            code = self._forks.wait(pid)
        with self._lock:
            self._end(code)
