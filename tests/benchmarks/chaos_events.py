"""What may happen to an elastic run: one function for each event of chaos.py."""

import contextlib
import random
import signal
import time
from collections.abc import Callable

import psutil

from tests.benchmarks.chaos_run import DISK_MB, NAMES, Run
from tests.integration.launched import send

Event = Callable[[Run, random.Random], str]


def rank(run: Run, rng: random.Random) -> str:
    """SIGKILL to a rank, or to a newcomer."""
    pid = rng.choice(run.processes() or [0])
    _send(pid, signal.SIGKILL)
    return _who(run, pid)


def chief(run: Run, rng: random.Random) -> str:
    """SIGKILL to rank 0."""
    _send(run.story.members()[0].pid, signal.SIGKILL)
    return ""


def two(run: Run, rng: random.Random) -> str:
    """SIGKILL to two ranks at once."""
    pids = run.processes()
    chosen = rng.sample(pids, min(2, len(pids)))
    for pid in chosen:
        _send(pid, signal.SIGKILL)
    return " and ".join(_who(run, pid) for pid in chosen)


def agent(run: Run, rng: random.Random) -> str:
    """SIGKILL to the agent of a rank."""
    chosen = rng.choice(run.story.members())
    _send(chosen.agent, signal.SIGKILL)
    return f"of rank {chosen.rank}"


def forks(run: Run, rng: random.Random) -> str:
    """SIGKILL to the process that a rank was forked from."""
    chosen = rng.choice(run.story.members())
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(chosen.pid).parent()
        if parent and parent.pid != chosen.agent and "app" in parent.cmdline():
            parent.kill()
    return f"of rank {chosen.rank}"


def supervisor(run: Run, rng: random.Random) -> str:
    """SIGKILL to the supervisor; the same command with --resume goes on."""
    run.launched.process.kill()
    return ""


def stop(run: Run, rng: random.Random) -> str:
    """SIGSTOP to a rank."""
    pid = rng.choice(run.processes() or [0])
    _send(pid, signal.SIGSTOP)
    return _who(run, pid)


def loop(run: Run, rng: random.Random) -> str:
    """A rank hangs in a callback."""
    chosen = rng.randrange(len(run.story.members()))
    run.story.hang(chosen)
    return f"rank {chosen}"


def term(run: Run, rng: random.Random) -> str:
    """SIGTERM to a rank: its host leaves; if that is the only one, all stop, and are resumed."""
    pid = rng.choice(run.processes() or [0])
    _send(pid, signal.SIGTERM)
    return _who(run, pid)


def cable(run: Run, rng: random.Random) -> str:
    """A host is off the network for a while."""
    assert run.hosts
    name, seconds = rng.choice(NAMES[1:]), rng.uniform(0.5, 8.0)
    with run.hosts.network.cut_off(name):
        time.sleep(seconds)
    return f"{name} for {seconds:.1f} s"


def host(run: Run, rng: random.Random) -> str:
    """A host is taken from the hostfile for a while."""
    name, seconds = rng.choice(NAMES[1:]), rng.uniform(3.0, 10.0)
    run.use(*(other for other in NAMES if other != name))
    time.sleep(seconds)
    run.use(*NAMES)
    return f"{name} for {seconds:.1f} s"


def disk(run: Run, rng: random.Random) -> str:
    """The disk of the run is full for a while."""
    seconds, file = rng.uniform(1.0, 8.0), run.directory / "ballast"
    try:
        with file.open("wb") as stream:
            for _ in range(DISK_MB * 16):
                stream.write(bytes(2**16))
                stream.flush()
    except OSError:
        pass
    time.sleep(seconds)
    file.unlink(missing_ok=True)
    return f"for {seconds:.1f} s"


ANYWHERE: dict[str, Event] = {
    "rank": rank, "chief": chief, "two": two, "agent": agent, "forks": forks,
    "supervisor": supervisor, "stop": stop, "loop": loop, "term": term, "disk": disk,
}  # fmt: skip
ON_HOSTS: dict[str, Event] = {**ANYWHERE, "cable": cable, "host": host}


def _send(pid: int, number: signal.Signals) -> None:
    if pid:
        send(pid, number)


def _who(run: Run, pid: int) -> str:
    """How a process is called now."""
    ranks = {member.pid: member.rank for member in run.story.members()}
    return f"rank {ranks[pid]}" if pid in ranks else "newcomer" if pid else "nobody"
