"""Run a launcher to its end: show its output, pass signals on, leave no process behind."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import IO

import psutil  # Horovod needs it too

from launch.report import Report

# For Linux's prctl: send a signal when our parent ends; adopt orphans below us.
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# horovodrun and mpirun wait up to ten seconds between SIGTERM and SIGKILL.
TERM_TO_KILL_S = 20.0
ORPHAN_S = 5.0


class Supervisor:
    """Runs one launcher."""

    def __init__(self, hosts: Sequence[str]):
        self._report = Report(hosts, sys.stderr.buffer)
        self._signal: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str], environ: Mapping[str, str]) -> int:
        """Start a launcher and wait for its end; returns the exit code for the user."""
        prctl = ctypes.CDLL(None).prctl
        prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in SIGNALS:
            signal.signal(number, self._pass_on)
        process = subprocess.Popen(
            list(command),
            env=dict(environ),
            cwd="/",  # ranks change to their directory themselves: horovodrun would not quote it
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches it only through us
            # If we are killed, it ends its ranks. No thread has been started yet.
            preexec_fn=lambda: prctl(SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
        )
        self._process = process
        if self._signal is not None:  # arrived while the launcher started
            process.terminate()
        lock = threading.Lock()
        out = _reader(process.stdout, lock, self._output)
        err = _reader(process.stderr, lock, self._report.error)
        code = process.wait()
        end_orphans()
        out.join()
        err.join()
        if self._signal is not None:
            return self._report.stopped(self._signal)
        return self._report.ended(code if code >= 0 else 128 - code)

    def _output(self, line: bytes) -> None:
        try:
            self._report.output(line, sys.stdout.buffer)
        except BrokenPipeError:  # the reader of our output has seen enough: | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._pass_on(signal.SIGPIPE, None)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        """The first signal gives ranks time to end by themselves; the second kills them."""
        first, self._signal = self._signal is None, self._signal or number
        if self._process is None:
            return
        if not first:
            self._process.kill()
            return
        self._process.terminate()
        timer = threading.Timer(TERM_TO_KILL_S, self._process.kill)
        timer.daemon = True
        timer.start()


def _reader(
    stream: IO[bytes] | None, lock: threading.Lock, take: Callable[[bytes], None]
) -> threading.Thread:
    """Pass each line of a stream to `take`, until its end, in a thread."""

    def read() -> None:
        for line in stream or ():
            with lock:
                take(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def end_orphans() -> None:
    """End what the launcher has left behind: our children, and the orphans that we adopt."""
    deadline = time.monotonic() + ORPHAN_S
    number = signal.SIGTERM
    while orphans := _children():
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.1)
        if time.monotonic() > deadline:
            number = signal.SIGKILL


def _children() -> list[int]:
    """Our child processes, once those that have ended are reaped."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [child.pid for child in psutil.Process().children()]


def run(command: Sequence[str], environ: Mapping[str, str], hosts: Sequence[str]) -> int:
    """Run a launcher whose ranks are on these hosts; returns the exit code for the user."""
    return Supervisor(hosts).run(command, environ)
