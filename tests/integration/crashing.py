"""A run that is killed from outside, at a moment, with nothing but what a user has: the launch
script, signals, and the files of the run directory.

The test test_crashes.py and the benchmark tests/benchmarks/crashes.py share this.
"""

import contextlib
import json
import random
import re
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.numpy

from app.rundir.files import STATE, RunFiles, list_checkpoints
from tests.integration.launched import Launched, send

# 1294 digits in batches of 128: 11 steps an epoch, the last of them short. Every step is logged, so
# the log says how far a run came.
OPTIONS = ["--global-batch-size", "128", "--dropout", "0.2", "--width", "8", "--resume",
           "--commit-every-steps", "4", "--log-every-steps", "1"]  # fmt: skip
KINDS = ("launcher", "all", "writing", "stop")  # of what is recovered from: chaos.py
STOPPED, EXAMPLES = 75, 1294
ATTEMPT_S = 600.0
LOGGED_STEP = re.compile(r"^\S+ rank 0 INFO lockstep: step (\d+) ", re.MULTILINE)


class Moment(NamedTuple):
    """When, and how: so many seconds after so many new checkpoints, or after the last one."""

    kind: str
    commits: int = 0
    delay_s: float = 0.0
    after_last: bool = False


@dataclass
class Attempt:
    """What became of one start of the run. Steps are None if none was taken."""

    kind: str
    code: int
    first_step: int | None
    last_step: int | None
    phase: str
    seconds: float
    ending_s: float  # from the kill to the end of the launcher
    output: str
    caught: bool = False  # left a checkpoint half-written
    problems: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.code == 0

    @property
    def resumed_from(self) -> int | None:
        return None if self.first_step is None else self.first_step - 1


class Run:
    """A run in a directory, to be started again and again. `final_step`: of its last checkpoint,
    if known."""

    def __init__(self, work: Path, name: str, ranks: int, *options: str, seed: int = 0):
        self.files = RunFiles(work / name)
        self.work, self.ranks, self.options = work, ranks, list(options)
        self.final_step = -1
        self.damaged: dict[str, int] = {}  # the inode of a checkpoint that we have damaged
        self.harmless: set[str] = set()  # those of them whose state is nevertheless as it was
        self._random = random.Random(seed)

    def attempt(self, moment: Moment | None = None) -> Attempt:
        """Start it, and kill it at the moment unless it ends before; its problems are told."""
        arguments = ["train", "--run-dir", str(self.files.directory), *OPTIONS, *self.options]
        began, expected = time.monotonic(), self.newest_good()
        until = began + ATTEMPT_S
        log = self.files.rank_log(0)
        logged = log.stat().st_size if log.exists() else 0
        damaged = [path.name for path in self.checkpoints() if self.is_damaged(path)]
        launched = Launched(self.ranks, arguments, self.work)
        problems: list[str] = []
        said, ending_s = None, 0.0
        try:
            if moment and self._reached(moment, launched, until):
                said = self._kill(moment.kind, launched, until)
            killed_at = time.monotonic()
            launched.ends(until)
            ending_s = time.monotonic() - killed_at
            problems += launched.left_behind(killed=said is not None)
        except TimeoutError as error:
            problems.append(str(error))
        finally:
            launched.end()
        text = launched.text()
        attempt = Attempt(
            kind=moment.kind if moment and said is not None else "none",
            code=launched.process.returncode,
            **_logged(log, logged),
            seconds=time.monotonic() - began,
            ending_s=ending_s if said is not None else 0.0,
            output=f"$ {' '.join(launched.command)}\n{text}",
            caught=any(self.files.checkpoints.glob(".*")),
            problems=problems,
        )
        problems += _wrong(attempt, said or "")
        problems += self._wrongly_resumed(attempt, expected, damaged)
        return attempt

    def checkpoints(self) -> list[Path]:
        return list_checkpoints(self.files.checkpoints)

    def newest_good(self) -> int:
        """The step of the newest checkpoint that we have not damaged; 0 if there is none."""
        good = [path for path in self.checkpoints() if not self.is_damaged(path)]
        return step_of(good[-1]) if good else 0

    def damage(self, how: str) -> str | None:
        """`truncate` any file of the newest checkpoint, or `flip` a bit in it; says what was done.
        None if that would leave no sound one."""
        found = self.checkpoints()
        if len(found) < 2 or any(map(self.is_damaged, found)):
            return None
        file = self._random.choice(sorted(p for p in found[-1].rglob("*") if p.is_file()))
        before, data = content(found[-1]), bytearray(file.read_bytes())
        at = self._random.randrange(len(data))
        if how == "truncate":
            del data[at:]
        else:
            data[at] ^= 1 << self._random.randrange(8)
        file.write_bytes(data)
        self.damaged[found[-1].name] = found[-1].stat().st_ino
        self.harmless = set()
        with contextlib.suppress(ValueError, KeyError, safetensors.SafetensorError):
            if content(found[-1]) == before:  # a checksum or a score: going on from it is right too
                self.harmless.add(found[-1].name)
        return f"{how} {found[-1].name}/{file.name} at byte {at}"

    def is_damaged(self, path: Path) -> bool:
        """Whether we have damaged it, and the run has not written it anew since."""
        with contextlib.suppress(FileNotFoundError):
            return self.damaged.get(path.name) == path.stat().st_ino
        return False

    def _wrongly_resumed(self, attempt: Attempt, expected: int, damaged: list[str]) -> list[str]:
        """Whether it went on from another step than the one expected, or did not tell why."""
        found = attempt.resumed_from
        if found is None:
            return []
        for name in {*damaged} & self.harmless:
            if step_of(Path(name)) == found:
                del self.damaged[name]
                return []
        problems = []
        if found != expected:
            problems.append(f"resumed from step {found}, not {expected}")
        for name in damaged:
            if not re.search(f"{name}.*damaged", attempt.output):
                problems.append(f"no warning that {name} is damaged")
        return problems

    def _reached(self, moment: Moment, launched: Launched, until: float) -> bool:
        """Wait for the moment; False if the run has ended before."""
        seen = set(_stats(self.checkpoints(), "st_ino"))
        new: set[tuple[str, int]] = set()

        def due() -> bool:
            found = self.checkpoints()
            new.update({*_stats(found, "st_ino")} - seen)
            if moment.after_last:
                return any(step_of(path) == self.final_step for path in found)
            return len(new) >= moment.commits

        if not launched.reaches(due, until):
            return False
        time.sleep(moment.delay_s)
        return launched.process.poll() is None

    def _kill(self, kind: str, launched: Launched, until: float) -> str | None:
        """Does it; returns what the output should then say. None if the run ended before."""
        if kind == "launcher":
            send(launched.process.pid, signal.SIGKILL)
            return ""
        if kind == "stop":
            send(launched.process.pid, signal.SIGTERM)
            return "stop"
        all_there = lambda: len(launched.ranks()) == self.ranks  # noqa: E731
        if kind != "all" and not launched.reaches(all_there, until, poll_s=0.1):
            return None
        if kind == "writing" and not self._writes(launched, until):
            return None
        launched.end()
        return ""

    def _writes(self, launched: Launched, until: float) -> bool:
        """Wait until a checkpoint is being written, and kill at once what writes it."""
        pids, before = [*launched.processes()], self._half_written()
        if not launched.reaches(lambda: bool(self._half_written() - before), until, poll_s=0):
            return False
        for pid in pids:
            send(pid, signal.SIGKILL)
        return True

    def _half_written(self) -> set[tuple[str, int]]:
        """One for each change in a half-written checkpoint; an old one does not change."""
        return set(_stats(self.files.checkpoints.glob(".*"), "st_ctime_ns"))


def _stats(paths: Iterable[Path], what: str) -> Iterator[tuple[str, int]]:
    """The name, and this field of `os.stat`, of each path that still exists: with the inode they
    tell a directory from a later one of the same name."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield path.name, getattr(path.stat(), what)


def _logged(log: Path, offset: int) -> dict[str, Any]:
    """The steps that an attempt has logged, and what it was doing at its end."""
    content = log.read_bytes() if log.exists() else b""
    text = content[offset:].decode(errors="replace")
    steps = [int(step) for step in LOGGED_STEP.findall(text)]
    last = text.rpartition(" lockstep: ")[2]
    phase = "training" if steps else "start" if text else "launch"
    if last.startswith("epoch"):
        phase = "epoch end"
    if last.startswith("Result"):
        phase = "end"
    return {"first_step": min(steps, default=None), "last_step": max(steps, default=None),
            "phase": phase}  # fmt: skip


def _wrong(attempt: Attempt, said: str) -> list[str]:
    """Exit codes and output that are not what they should be."""
    problems, kind, code = [], attempt.kind, attempt.code
    allowed = {"none": (0,), "stop": (STOPPED, 0)}.get(kind)
    if allowed and code not in allowed:
        problems.append(f"exit code {code}, not {allowed[0]}")
    if kind == "stop" and code and said not in attempt.output:
        problems.append(f"does not say '{said}'")
    if "Traceback (most recent call last)" in attempt.output:
        problems.append("a traceback")
    return problems


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def content(checkpoint: Path) -> dict[str, Any]:
    """What must be the same in a run that was killed: each array's bytes, the position, and the
    sums behind the metrics."""
    said = json.loads((checkpoint / STATE).read_text())
    found: dict[str, Any] = {
        name: said[name] for name in ("step", "epoch", "examples_seen", "seed", "metrics")
    }
    # A run that stops after the last step of an epoch leaves what its end asks for to the next one.
    epochs, found["examples_seen"] = divmod(found["examples_seen"], EXAMPLES)
    found["epoch"] += epochs
    for file in sorted(checkpoint.glob("*.safetensors")):
        for name, array in safetensors.numpy.load_file(file).items():
            found[name] = (array.dtype, array.shape, array.tobytes())
    return found
