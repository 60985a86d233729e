"""Goodput: the share of wall time that went into steps that counted, and where the rest went.

Summed over all starts of a run directory, so it outlives this process in RUN/goodput.json: a list
of marks, one for each checkpoint, with the seconds by cause up to there. A start that goes on from
a checkpoint goes on from its mark: steps after it did not count, and all the time from the mark to
the new start was lost to the restart. So nothing is needed from a process that is killed.
"""

import dataclasses
import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

from app.pulse import PULSE
from app.rundir.contents import write_file

LOG = logging.getLogger(__name__)
STEPS, RESTART, OTHER = "steps", "restart", "other"
CAUSES = ("start", "input", "checkpoint", "evaluation", RESTART, OTHER)  # of losses
CAUSE_OF_PHASE = {  # of app.pulse; of every phase that is not here: OTHER
    "step": STEPS,
    "input": "input",
    "checkpoint": "checkpoint",
    "validation": "evaluation",
    "test": "evaluation",
    "start": "start",
    "preparation": "start",
    "download": "start",
    "first trace": "start",
    "recovery": RESTART,
}
FORMAT = 1
MOST_MARKS = 100  # checkpoints to go back to; for one before them, the oldest mark stands in
# From the start of a process to our first import. A shell may have become it, much later.
MOST_BEFORE_S = 60.0


@dataclasses.dataclass(frozen=True)
class GoodputSummary:
    """Of all starts of a run, until now.

    seconds: by cause, of STEPS that counted and of the losses, CAUSES; restarts: how often it went
    on from a checkpoint after it had been interrupted, or went back to one.
    """

    seconds: dict[str, float]
    restarts: int

    @property
    def wall_s(self) -> float:
        """All of the time."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """Of steps that counted."""
        return self.seconds[STEPS] / self.wall_s if self.wall_s else 0.0

    def to_json(self) -> dict[str, Any]:
        """For metrics.json."""
        seconds = {cause: round(value, 3) for cause, value in self.seconds.items()}
        return {"share": round(self.share, 4), "seconds": seconds, "restarts": self.restarts}

    def __str__(self) -> str:
        """In a line for people; losses below 1% are left out."""
        lost = {cause: self.seconds[cause] / max(self.wall_s, 1e-9) for cause in CAUSES}
        shown = [f"{cause} {share:.0%}" for cause, share in lost.items() if share >= 0.01]
        line = f"{self.share:.0%} of {self.wall_s:,.0f} s in steps that counted"
        return f"{line}; {', '.join(shown)}" if shown else line


@dataclasses.dataclass(frozen=True)
class _Mark:
    """The run at a step: the time in s since 1970, and the seconds by cause until then."""

    step: int
    at: float
    seconds: dict[str, float]

    @property
    def wall_s(self) -> float:
        return sum(self.seconds.values())


class Goodput:
    """The ledger of a run directory. That it cannot be written is said once and ends nothing.

    Counts from the start of this process, or from here if the process has had a run before.

    Args:
        path: the ledger; None on all ranks but the chief, which keep none.
    """

    _is_first = True

    def __init__(self, path: Path | None):
        self._path = path
        self._earlier = dict.fromkeys((STEPS, *CAUSES), 0.0)  # of other starts
        self._until = PULSE.total_seconds  # counted elsewhere
        self._before = 0.0
        if Goodput._is_first:
            since_import, self._until = sum(self._until.values()), {}
            self._before = min(max(0.0, _process_age_s() - since_import), MOST_BEFORE_S)
        Goodput._is_first = False
        # Not asked again: the clock may be set.
        self._clock = time.time() - time.monotonic()
        self._born = time.time() - sum(self._own().values())
        self._marks = [self._now(0)]
        self._restarts = 0
        self._is_finished = self._has_failed = False

    def begin(self, step: int) -> None:
        """Training begins at `step`: that of the checkpoint it goes on from, or 0."""
        if self._path is not None and self._path.exists():
            self._go_on(self._path, step)
        self.mark(step)

    def lead(self, path: Path) -> None:
        """Take the ledger over from a chief that is gone: this rank has trained beside it."""
        now, own = self._now(0), self._marks
        self._path = path
        found = self._read(path) if path.exists() else None
        if found is None:
            return
        self._marks, self._restarts, _ = found
        last = self._marks[-1]
        at = next((mark for mark in reversed(own) if mark.step <= last.step), own[0])

        def since(mark: _Mark) -> dict[str, float]:
            return {
                cause: seconds + mark.seconds[cause] - at.seconds[cause]
                for cause, seconds in last.seconds.items()
            }

        later = [_Mark(mark.step, mark.at, since(mark)) for mark in own if mark.step > last.step]
        self._marks = [*self._marks, *later][-MOST_MARKS:]
        self._earlier = since(now)
        self._until, self._before = PULSE.total_seconds, 0.0

    def mark(self, step: int) -> None:
        """A checkpoint of `step` is being taken: if it is gone on from, what was before counts."""
        self._marks = [*self._marks, self._now(step)][-MOST_MARKS:]
        self._write()

    def lost_since(self, step: int) -> None:
        """Training goes back to the checkpoint of `step`: what came after it did not count."""
        wall_s = self._now(step).wall_s
        self._until, self._before = PULSE.total_seconds, 0.0
        self._count_from(step, wall_s)
        self._restarts += 1
        self.mark(step)

    def finished(self, step: int) -> None:
        """All is trained and kept: if the run is prolonged later, the time between is no loss."""
        self._is_finished = True
        self.mark(step)

    def summary(self) -> GoodputSummary:
        """Of all starts, until now."""
        return GoodputSummary(self._now(0).seconds, self._restarts)

    def _own(self) -> dict[str, float]:
        """The seconds of this start, by cause."""
        found = dict.fromkeys((STEPS, *CAUSES), 0.0)
        found["start"] += self._before
        for phase, seconds in PULSE.total_seconds.items():
            found[CAUSE_OF_PHASE.get(phase, OTHER)] += seconds - self._until.get(phase, 0.0)
        return found

    def _now(self, step: int) -> _Mark:
        own = self._own()
        seconds = {cause: earlier + own[cause] for cause, earlier in self._earlier.items()}
        return _Mark(step, self._clock + time.monotonic(), seconds)

    def _count_from(self, step: int, wall_s: float) -> None:
        """Go on from the mark of `step`; the rest of `wall_s` was lost."""
        self._marks = [mark for mark in self._marks if mark.step <= step] or self._marks[:1]
        good = self._marks[-1]
        lost = max(0.0, wall_s - good.wall_s)
        self._earlier = {**good.seconds, RESTART: good.seconds[RESTART] + lost}

    def _go_on(self, path: Path, step: int) -> None:
        """Take over what earlier starts have left in the ledger."""
        found = self._read(path)
        if found is None:
            return
        marks, restarts, was_finished = found
        self._marks, self._restarts = marks, restarts
        last = marks[-1]
        gap = 0.0 if was_finished else max(0.0, self._born - last.at)
        self._count_from(step, last.wall_s + gap)
        self._restarts += not was_finished

    def _read(self, path: Path) -> tuple[list[_Mark], int, bool] | None:
        try:
            return _parsed(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, KeyError) as error:
            LOG.warning("%s cannot be read (%s): goodput is counted from here on", path, error)
            return None

    def _write(self) -> None:
        if self._path is None:
            return
        marks = [dataclasses.asdict(mark) for mark in self._marks]
        ledger = {"format": FORMAT, "finished": self._is_finished, "restarts": self._restarts}
        try:
            write_file(self._path, json.dumps({**ledger, "marks": marks}) + "\n")
        except OSError as error:
            if not self._has_failed:
                LOG.warning("cannot write %s: %s", self._path, error.strerror or error)
            self._has_failed = True


def _process_age_s() -> float:
    """By a clock that nobody sets; psutil's own is up to 1 s off."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    began = int(ticks) / os.sysconf("SC_CLK_TCK")  # since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def _parsed(text: str) -> tuple[list[_Mark], int, bool]:
    """(marks, restarts, whether the run was finished) of a ledger.

    Raises ValueError, TypeError or KeyError if it is none of ours.
    """
    ledger = json.loads(text)
    if ledger["format"] != FORMAT:
        raise ValueError(f"format {ledger['format']!r}")
    marks = [
        _Mark(
            int(mark["step"]),
            float(mark["at"]),
            {cause: float(mark["seconds"][cause]) for cause in (STEPS, *CAUSES)},
        )
        for mark in ledger["marks"]
    ]
    if not marks or not all(math.isfinite(mark.wall_s + mark.at) for mark in marks):
        raise ValueError("no marks")
    return marks, int(ledger["restarts"]), bool(ledger["finished"])
