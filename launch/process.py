"""A process of our own, and the state of any."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.orphans import SET_PDEATHSIG

ENDED = ("Z", "")  # states: a zombie; none


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


def state(pid: int) -> str:
    """The letter of a process's state, of proc(5): T stopped, D uninterruptible; "" if gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
