"""A launcher with its ranks, as seen from outside: its processes, its output, what it leaves."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import psutil

from tests.integration.launching import LAUNCHER_VARIABLES, ROOT

# In the environment of every process; the launch scripts hand on what begins with LOCKSTEP_.
MARK = "LOCKSTEP_CRASH_TEST"
VANISH_S, POLL_S = 60.0, 0.01
RANK = (("-m", "launch.rank"), ("-m", "app"))  # in its command line
OF_TENSORFLOW = "__autograph_generated_file"  # it removes these itself, unless it is killed


class Launched:
    """One launcher with its ranks. `environ`: for all of them; `launcher`: other than that of this
    host."""

    def __init__(
        self,
        ranks: int,
        arguments: list[str],
        work: Path,
        environ: Mapping[str, str] = MappingProxyType({}),
        launcher: Sequence[str] = (),
    ):
        self.mark = uuid.uuid4().hex
        self.began = time.monotonic()
        self.output = work / f"{self.mark}.txt"
        self.temporary = work / f"tmp-{self.mark}"
        self.temporary.mkdir(parents=True)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
        own = {"LOCKSTEP_VENV": sys.prefix, "TMPDIR": str(self.temporary), MARK: self.mark}
        self.command = [*(launcher or ("launch/local.sh", "-n", str(ranks))), *arguments]
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**inherited, **own, **environ},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self) -> dict[int, dict[str, str]]:
        """The environment of each process of this attempt that is alive, by its number."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                environ = process.environ()
                if environ.get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = environ
        return found

    def ranks(self) -> list[int]:
        """The process of each rank that runs already, in the order of ranks: `-m app`; until that
        runs, `-m launch.rank`, which starts it or becomes it."""
        found: dict[int, int] = {}
        for pid, environ in sorted(self.processes().items()):  # a child comes after its parent
            with contextlib.suppress(psutil.Error, KeyError):
                words = psutil.Process(pid).cmdline()
                if any(pair in itertools.pairwise(words) for pair in RANK):
                    found[int(environ["HOROVOD_RANK"])] = pid
        return [found[rank] for rank in sorted(found)]

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def end(self) -> None:
        """Kill everything that is left."""
        while left := self.processes():
            for pid in left:
                send(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.05)
        self.process.wait()

    def reaches(self, condition: Callable[[], bool], until: float, poll_s: float = POLL_S) -> bool:
        """Wait for a condition; False if the launcher ends before it holds."""
        while not condition():
            if self.process.poll() is not None:
                return False
            self._check(until)
            time.sleep(poll_s)
        return True

    def ends(self, until: float) -> None:
        """Wait for the end of the launcher, however it ends."""
        while self.process.poll() is None:
            self._check(until)
            time.sleep(POLL_S)

    def _check(self, until: float) -> None:
        if time.monotonic() > until:
            raise TimeoutError("has not come to an end by itself")

    def left_behind(self, killed: bool) -> list[str]:
        """What it has left a while after its end: processes and temporary files. `killed`: some
        process could not clean up."""
        until = time.monotonic() + VANISH_S
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.1)
        found = []
        for pid in left:
            with contextlib.suppress(psutil.Error):
                found.append(f"left a process: {' '.join(psutil.Process(pid).cmdline())[-80:]}")
        for path in self.temporary.iterdir():
            if not (killed and path.name.startswith(OF_TENSORFLOW)):
                found.append(f"left {path}")
        return found


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
