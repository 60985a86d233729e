"""How long an elastic run takes to its next step, by what has happened: medians of some times.

With a heartbeat of 3 s and 5 s for a step. `next step` is the end of the first step that a world
without the failed ranks has taken. Every rank that is lost is replaced before the next event.
"""

import itertools
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.chaos_run import LAUNCH_S, RANKS, Run
from tests.cluster.conftest import Hosts
from tests.integration.elastic import Note

SLOW_MS, STEP_MS = 50, 60
EACH = 5  # times in one run
BETWEEN_S = 0.05  # from a world that is given out to the death of one of its ranks


class Kind(NamedTuple):
    """What is measured. `wanted_s`: what the issue asks for."""

    name: str
    wanted_s: float
    measure: Callable[[Run], float]


def measure_times(work: Path, hosts: Hosts | None, times: int) -> None:
    """Print a row for each kind, which is measured so many times."""
    kinds = [
        Kind("SIGKILL to a rank", 1.5, kill),
        Kind("SIGSTOP to a rank", 4.5, stop),
        Kind("stuck in Python", 7.0, hang),
        Kind("death during re-initialisation", 12.0, die_again),
        Kind("restart of all ranks", 8.0, kill_all),
    ]
    if hosts:
        kinds.append(Kind("cable", 4.0, cut))
    print("s, median (least to most)         wanted", flush=True)
    joins: list[float] = []
    for kind in kinds:
        found: list[float] = []
        while len(found) < times:
            found += _measured(work, hosts, kind, min(EACH, times - len(found)), joins)
        _row(kind.name, found, kind.wanted_s)
    _row("pause of the others at a join", joins, 1.0)
    stops = Kind("agreed stop", 1.0, agreed_stop)
    _row(stops.name, _measured(work, hosts, stops, 3, joins), stops.wanted_s)


def _measured(
    work: Path, hosts: Hosts | None, kind: Kind, times: int, joins: list[float]
) -> list[float]:
    """Measure in a run of its own: a host where ranks fail again and again is left out for longer
    and longer. Adds to `joins` how long others paused."""
    number = len(list(work.iterdir()))
    run = Run(work / f"times-{number}", hosts, 100_000)
    run.story.slow(SLOW_MS)
    run.start()
    try:
        found = [kind.measure(_whole(run)) for _ in range(times)]
        joins += pauses(run)
        return found
    finally:
        run.end()
        (run.work / "output.txt").write_text(f"{run.text}\n{run.story}\n")


def _row(name: str, seconds: list[float], wanted_s: float) -> None:
    told = f"{statistics.median(seconds):5.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
    print(f"{name:32} {told:24} {wanted_s:4.1f}  n={len(seconds)}", flush=True)


def _whole(run: Run) -> Run:
    """The run, once all its ranks train."""
    if run.launched.process.poll() is not None:
        run.start()
    deadline = time.monotonic() + LAUNCH_S
    began = run.launched.began
    while not (run.story.trains(RANKS) and run.story.worlds()[-1][0]["at"] > began):
        assert run.launched.process.poll() is None and time.monotonic() < deadline, run.text
        time.sleep(0.05)
    time.sleep(random.uniform(0.5, 1.5))
    return run


def _next_step(run: Run, without: list[int], since: float) -> float:
    """Seconds until a world without these processes has taken a step."""
    assert run.waits_for(lambda: run.story.goes_on(without, since)), run.text
    first = next(note for note in run.story.worlds()[-1] if note["what"] == "done")
    return first["at"] - since


def _signal(run: Run, number: signal.Signals, ranks: list[int]) -> float:
    pids = [member.pid for member in run.story.members() if member.rank in ranks]
    now = time.monotonic()
    for pid in pids:
        os.kill(pid, number)
    return _next_step(run, pids, now)


def kill(run: Run) -> float:
    return _signal(run, signal.SIGKILL, [random.randrange(RANKS)])


def stop(run: Run) -> float:
    return _signal(run, signal.SIGSTOP, [random.randrange(RANKS)])


def kill_all(run: Run) -> float:
    return _signal(run, signal.SIGKILL, [*range(RANKS)])


def hang(run: Run) -> float:
    member = random.choice(run.story.members())
    run.story.hang(member.rank)
    told = lambda: [note for note in run.story.notes if note["what"] == "hangs"]  # noqa: E731
    before = len(told())
    assert run.waits_for(lambda: len(told()) > before or not (run.story.room / "loop").exists())
    return _next_step(run, [member.pid], told()[-1]["at"])


def die_again(run: Run) -> float:
    """From the second death, which comes while the survivors of the first form their world."""
    first, second = random.sample(run.story.members(), 2)
    os.kill(first.pid, signal.SIGKILL)
    time.sleep(random.uniform(0, 4 * BETWEEN_S))
    now = time.monotonic()
    os.kill(second.pid, signal.SIGKILL)
    return _next_step(run, [first.pid, second.pid], now)


def cut(run: Run) -> float:
    assert run.hosts
    (member,) = [member for member in run.story.members() if member.host == "h3"]
    with run.hosts.network.cut_off("h3"):
        return _next_step(run, [member.pid], time.monotonic())


def agreed_stop(run: Run) -> float:
    """From SIGTERM to the end of the launcher."""
    now = time.monotonic()
    run.launched.process.terminate()
    run.launched.ends(now + LAUNCH_S)
    return time.monotonic() - now


def pauses(run: Run) -> Iterator[float]:
    """Between two steps of those that were there before, wherever others have joined."""
    worlds = run.story.worlds()
    for before, after in itertools.pairwise(worlds):
        last, first = _done(before)[-1:], _done(after)[:1]
        grows = after[0]["size"] > before[0]["size"]
        if grows and last and first and first[0]["step"] == last[0]["step"] + 1:
            yield first[0]["at"] - last[0]["at"] - STEP_MS / 1000


def _done(world: list[Note]) -> list[Note]:
    return [note for note in world if note["what"] == "done"]
