"""A run that chaos.py disturbs: its launcher here or on three hosts, its notes, what it leaves."""

import contextlib
import itertools
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from tests.cluster.conftest import PORT, Hosts
from tests.cluster.namespaces import Network, why_not
from tests.integration.elastic import DIGITS, Story, results
from tests.integration.launched import Launched
from tests.integration.launching import ROOT

RANKS, STEPS_PER_EPOCH = 3, 11
NAMES = ("h1", "h2", "h3")
LIMITS = ["--heartbeat-s", "3"]
TRAIN = [*DIGITS, "--commit-every-steps", "4", "--step-timeout-s", "5", "--json"]
LAUNCH_S, DISK_MB = 400.0, 24


class Run:
    """A run of three ranks, started again as often as needed. `hosts`: None: all ranks here;
    `launcher`: other than ours."""

    def __init__(self, work: Path, hosts: Hosts | None, epochs: int, launcher: Sequence[str] = ()):
        self.work, self.hosts, self.epochs = work, hosts, epochs
        self.story = Story(work / "notes")
        self.directory = work / "run"
        self.hostfile = work / "hostfile"
        self.use(*NAMES)
        self._launcher = launcher
        self._launches: list[Launched] = []

    @property
    def launched(self) -> Launched:
        """The newest launch."""
        return self._launches[-1]

    def use(self, *names: str) -> None:
        """Write the hostfile."""
        new = self.work / "hostfile.new"
        new.write_text("".join(f"{name} slots=1\n" for name in names))
        new.rename(self.hostfile)

    def start(self) -> None:
        """Start it, or start it again after its end."""
        launcher = self._launcher
        if self.hosts:
            script = [str(ROOT / "launch" / "hosts.sh"), "--hostfile", str(self.hostfile)]
            ssh = ["--ssh-port", str(PORT), "--ssh-identity", str(self.hosts.key)]
            launcher = self.hosts.network.command("h1", *script, *ssh)
        train = [*TRAIN, "--epochs", str(self.epochs), "--run-dir", str(self.directory)]
        resume = ["--resume"] if self._launches else []
        arguments = [*(() if self._launcher else LIMITS), *train, *resume]
        environ = self.story.environ
        self._launches.append(Launched(RANKS, arguments, self.work, environ, launcher))

    def waits_for(self, condition: Callable[[], bool]) -> bool:
        """False if the launcher ends before. Raises TimeoutError."""
        return self.launched.reaches(condition, time.monotonic() + LAUNCH_S, poll_s=0.02)

    def waits_for_nobody(self) -> None:
        """Until the processes of the newest launch have ended. Raises TimeoutError."""
        if self.launched.left_behind(killed=True):
            raise TimeoutError("processes have outlived their supervisor")

    def processes(self) -> list[int]:
        """All ranks, those too that start or wait; not what they were forked from."""
        found = {}
        for pid in self.launched.processes():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if ("-m", "app") in itertools.pairwise(process.cmdline()):
                    found[pid] = process.ppid()
        return sorted({*found} - {*found.values()})

    @property
    def text(self) -> str:
        """What all launches have printed."""
        return "".join(launched.text() for launched in self._launches)

    def problems(self) -> list[str]:
        """What is wrong with it, after its end."""
        found = self.story.problems(self.epochs)
        for launched in self._launches:
            found += launched.left_behind(killed=True)
        found += self.hosts.left_behind() if self.hosts else []
        if len(results(self.text)) != 1:
            found.append(f"printed {len(results(self.text))} results")
        metrics = json.loads((self.directory / "metrics.json").read_text())
        if metrics["step"] != self.epochs * STEPS_PER_EPOCH:
            found.append(f"ended at step {metrics['step']}")
        if "Traceback (most recent call last)" in self.text:
            found.append("a traceback")
        return found

    def end(self) -> None:
        """Kill what is left."""
        for launched in self._launches:
            launched.end()


@contextlib.contextmanager
def three_hosts() -> Iterator[Hosts]:
    """Network namespaces with sshd."""
    if reason := why_not():
        raise SystemExit(reason)
    with Network(NAMES) as network, tempfile.TemporaryDirectory() as folder:
        hosts = Hosts(network, Path(folder))
        for name in NAMES:
            hosts.start_sshd(name)
        yield hosts


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A file system of its own for a directory."""
    directory.mkdir(parents=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "chaos", str(directory))
    try:
        yield
    finally:
        _run("umount", "-l", str(directory))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
