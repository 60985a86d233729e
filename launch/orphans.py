"""Leave no process behind: our children, and their children once those are gone."""

import contextlib
import ctypes
import os
import signal
import time

import psutil  # Horovod needs it too

# For Linux's prctl: send a signal when our parent ends; adopt orphans below us.
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36
ORPHAN_S = 5.0


def adopt_orphans() -> None:
    """Become the parent of processes below us whose own parent ends."""
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans() -> None:
    """End what has been left behind."""
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
