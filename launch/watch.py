"""Is a rank stuck, and which? Judges what agents report; pure functions.

When one rank is stuck, all others soon wait for it. So the one to name is not the first that is
late, but the one that the others wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from app.pulse import Reading

SILENT_S = 30.0  # an agent reports every second
HALTED_S = 60.0  # longer than anybody means to stop a process, whatever it does
STOPPED, UNINTERRUPTIBLE = "T", "D"  # of proc(5)


class Seen(NamedTuple):
    """What is known of a rank. `state`: the letter of its process's state, of proc(5);
    `silent_s`: how long ago its agent last reported."""

    rank: int
    host: str
    reading: Reading | None
    state: str
    silent_s: float

    @property
    def age_s(self) -> float:
        """How long the rank has made no progress."""
        return (self.reading.age_s if self.reading else 0.0) + self.silent_s

    @property
    def is_late(self) -> bool:
        """Whether that is longer than it may take."""
        return self.reading is not None and self.reading.age_s > self.reading.limit_s


class Blame(NamedTuple):
    """Why nothing goes on. `seen`: the rank that all others wait for; None if none is known."""

    seen: Seen | None
    why: str


def stuck(ranks: Sequence[Seen]) -> str | None:
    """One sentence about the rank that keeps all from going on; None if there is none.

    `ranks`: those that have not ended.
    """
    silent = [seen for seen in ranks if seen.silent_s > SILENT_S]
    if silent:
        return f"{who(silent[0])}: no word from its host for {silent[0].silent_s:.0f} s"
    found = blame(ranks)
    return found.why if found else None


def blame(ranks: Sequence[Seen]) -> Blame | None:
    """The rank that keeps all from going on, of those whose agents report; None: all is well."""
    late = [seen for seen in ranks if seen.is_late]
    stopped = [seen for seen in ranks if seen.state == STOPPED]
    if stopped and (late or any(seen.age_s > HALTED_S for seen in stopped)):
        return Blame(stopped[0], halted(ranks) or "")
    if not late:
        return None
    if disk := [seen for seen in late if seen.state == UNINTERRUPTIBLE]:
        why = f"{_where(disk[0])}: its process waits for a disk or a network file system"
        return Blame(disk[0], why)
    busy = [seen for seen in ranks if _is_busy(seen)]
    if busy:  # the others wait for these, which may take as long as their own limit
        return next((Blame(seen, _where(seen)) for seen in busy if seen.is_late), None)
    return _behind(ranks, late)


def halted(ranks: Sequence[Seen]) -> str | None:
    """One sentence about a rank whose process is stopped; None if there is none."""
    stopped = [seen for seen in ranks if seen.state == STOPPED]
    return f"{_where(stopped[0])}: its process is stopped" if stopped else None


def _is_busy(seen: Seen) -> bool:
    """Whether a rank does something of its own: nobody else keeps it from going on."""
    return seen.reading is None or not (seen.reading.waits or seen.reading.phase == "step")


def _behind(ranks: Sequence[Seen], late: Sequence[Seen]) -> Blame:
    """All are in a step or wait: those with the lowest step are behind, if not all have it."""
    steps = [seen.reading.step for seen in ranks if seen.reading]
    behind = [seen for seen in ranks if seen.reading and seen.reading.step == min(steps)]
    if len(behind) < len(ranks) or len(ranks) == 1:
        return Blame(behind[0], _where(behind[0]))
    age_s = max(seen.age_s for seen in late)
    return Blame(None, f"no rank has finished step {min(steps) + 1} for {age_s:.0f} s")


def _where(seen: Seen) -> str:
    phase, step = (seen.reading.phase, seen.reading.step) if seen.reading else ("start", 0)
    return f"{who(seen)}: no progress for {seen.age_s:.0f} s in {phase} (step {step})"


def who(seen: Seen) -> str:
    """`rank 3 on gpu2`, or `rank 3` if all ranks are on this machine."""
    return f"rank {seen.rank}" + (f" on {seen.host}" if seen.host != "localhost" else "")
