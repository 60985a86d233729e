"""How an agent makes the process of its rank: a fresh one, or a fork of one that has imported
TensorFlow already (app/elastic/forks.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from app.elastic.forks import FORKS_VARIABLE, MOST_BYTES
from launch.orphans import SET_PDEATHSIG

READY_S, FORK_S = 120.0, 10.0  # for the imports; for a fork


class Child:
    """A process with a session of its own, which ends when we do. Start it from the main thread:
    it would end with the thread."""

    def __init__(
        self,
        command: Sequence[str],
        directory: str,
        environ: Mapping[str, str],
        descriptors: Sequence[int],
    ):
        prctl = ctypes.CDLL(None).prctl
        self._process = subprocess.Popen(
            list(command),
            cwd=directory,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
            # It takes no lock that another thread may hold.
            preexec_fn=lambda: prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        )
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """As of subprocess.Popen; None until `wait` has returned."""
        return self._process.returncode

    def wait(self) -> int:
        """Until it has ended."""
        return self._process.wait()

    def send_signal(self, number: int) -> None:
        """To this process, if it has not ended."""
        self._process.send_signal(number)

    def kill_all(self) -> None:
        """SIGKILL to it and to all processes of its group."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


class Forks:
    """A process to fork ranks from; see app/elastic/forks.py. Start it from the main thread."""

    def __init__(self, command: Sequence[str], directory: str):
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # It does nothing with arrays, and NumPy must not start threads in it.
        own = {FORKS_VARIABLE: str(theirs.fileno()), "OPENBLAS_NUM_THREADS": "1"}
        try:
            self.process = Child(command, directory, {**os.environ, **own}, [theirs.fileno()])
        finally:
            theirs.close()
        threading.Thread(target=self.process.wait, daemon=True).start()
        self._is_ready = False
        self.turn = threading.Lock()

    def fork(self, environ: Mapping[str, str], descriptors: Sequence[int]) -> int:
        """A child's number. Raises OSError if there is none to be had."""
        if not self._is_ready:
            self._control.settimeout(READY_S)
            if self._hear()["threads"] > 1:
                raise OSError("a thread runs in the process to fork from")
            self._is_ready = True
        self._control.settimeout(FORK_S)
        asked = json.dumps({"environ": dict(environ)}).encode()
        socket.send_fds(self._control, [asked], list(descriptors))
        return int(self._hear()["pid"])

    def wait(self) -> int:
        """Until the child has ended; its exit code, as of subprocess.Popen. If the process that it
        was forked from has ended, so has the child."""
        self._control.settimeout(None)
        try:
            return int(self._hear()["code"])
        except OSError:
            return -signal.SIGKILL

    def end(self) -> None:
        """End it, and its child."""
        self.process.kill_all()

    def _hear(self) -> dict[str, Any]:
        data = self._control.recv(MOST_BYTES)
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
            code = self._forks.wait()
        with self._lock:
            self._end(code)
