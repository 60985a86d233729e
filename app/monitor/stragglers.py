"""Which ranks hold the others up, since when, and with what.

All ranks step together, so a slow one shows in the steps of all: the others wait for it in their
exchange. What tells it apart is its own work: input, compute, and other, which is callbacks and
reports. A slow link or a slow codec makes the exchange of every rank equally long, so it cannot be
laid to one of them, and an exchange is never the cause here; the mean exchange in TensorBoard shows
it. Nor can a slow GPU: there a gradient counts as ready once its kernel is queued, so the time of
all its kernels is exchange on every rank (app/distributed/telemetry.py).

Plain arithmetic on a table that all ranks have.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.monitor.timing import RankTimes

# Slower than the median of the other ranks by this factor. Ranks that share a machine's cores with
# each other alone differ so much in single reports; with other programs, for as long as those run.
FACTOR = 1.5
# And by so much per step: in steps of a few ms, what the chief does for reports is a large share.
LEAST_EXCESS_S = 0.004
# In so many blocks in a row: a host that swaps for a second is no slow rank. A block is a report,
# or several that make so many steps: an epoch's first step has no callbacks before it.
BLOCKS, BLOCK_STEPS = 5, 20
# The parts of a rank's own work, and what they are called.
CAUSES = {"input": "input", "compute": "compute", "other": "callbacks or reports"}


@dataclasses.dataclass
class _Spell:
    """Steps of one rank. In s, over all of them: `work` of this rank and of the median of the other
    ranks, float64 (2,); `own` and `usual`: the same by cause, float64 (causes,)."""

    blocks: int = 0
    steps: int = 0
    work: Any = 0.0
    own: Any = 0.0
    usual: Any = 0.0

    def __add__(self, other: "_Spell") -> "_Spell":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return _Spell(*(one + another for one, another in pairs))

    @property
    def factor(self) -> float:
        return float(self.work[0] / max(self.work[1], 1e-9))

    @property
    def cause(self) -> str:
        return list(CAUSES)[int((self.own - self.usual).argmax())]


class Stragglers:
    """Sees each report of a run.

    Args:
        hosts: the name of each rank's host.
    """

    def __init__(self, hosts: Sequence[str]):
        self._hosts = hosts
        self._named = [False for _ in hosts]
        self._others = [_Spell() for _ in hosts]  # since when a rank is not as it was named
        self._totals = [_Spell() for _ in hosts]  # of the blocks in which it was slow and named
        self._block = [_Spell() for _ in hosts]

    def see(self, times: RankTimes, steps: int) -> list[str]:
        """A report over `steps` steps: a sentence for each rank that begins to hold the others up,
        or no longer does."""
        if len(self._hosts) < 2 or not times.whole.all():  # on some rank, none of them was timed
            return []
        for rank in range(len(self._hosts)):
            self._block[rank] += _spell(times, rank, steps)
        if self._block[0].steps < BLOCK_STEPS:
            return []
        said = [self._judge(rank, block) for rank, block in enumerate(self._block)]
        self._block = [_Spell() for _ in self._hosts]
        return [text for text in said if text]

    def summary(self) -> list[dict[str, Any]]:
        """The ranks that held the others up: rank, host, cause, factor, and the number of steps
        in which they did; in the order of ranks."""
        return [
            {
                "rank": rank,
                "host": self._hosts[rank],
                "cause": total.cause,
                "factor": round(total.factor, 2),
                "steps": total.steps,
            }
            for rank, total in enumerate(self._totals)
            if total.steps
        ]

    def _judge(self, rank: int, block: _Spell) -> str | None:
        now = dataclasses.replace(block, blocks=1)
        excess = now.work[0] - now.work[1]
        is_slow = excess >= max((FACTOR - 1) * now.work[1], LEAST_EXCESS_S * now.steps)
        if is_slow == self._named[rank]:
            self._others[rank] = _Spell()
            if is_slow:
                self._totals[rank] += now
            return None
        spell = self._others[rank] = self._others[rank] + now
        if spell.blocks < BLOCKS:
            return None
        self._named[rank], self._others[rank] = is_slow, _Spell()
        if not is_slow:
            return f"{self._name(rank)} no longer holds the others up"
        self._totals[rank] += spell
        return self._text(rank, spell)

    def _text(self, rank: int, spell: _Spell) -> str:
        own = spell.own[list(CAUSES).index(spell.cause)]
        whole, part = (1e3 * seconds / spell.steps for seconds in (spell.work[0], own))
        return (
            f"{self._name(rank)} holds the others up: its work takes {spell.factor:.1f} times as "
            f"long as their median, {whole:.0f} ms per step; most of the difference is "
            f"{CAUSES[spell.cause]} ({part:.0f} ms)"
        )

    def _name(self, rank: int) -> str:
        return f"rank {rank} on {self._hosts[rank]}"


def described(summary: Sequence[dict[str, Any]]) -> str:
    """`Stragglers.summary()` in a line for people."""
    return ", ".join(
        f"rank {one['rank']} on {one['host']} x{one['factor']:.1f} for {one['steps']:,} steps "
        f"({CAUSES[one['cause']]})"
        for one in summary
    )


def _spell(times: RankTimes, rank: int, steps: int) -> _Spell:
    parts = np.stack([getattr(times, cause) for cause in CAUSES], axis=1) * steps
    others = np.delete(parts, rank, axis=0)
    work = np.array([parts[rank].sum(), np.median(others.sum(axis=1))])
    return _Spell(0, steps, work, parts[rank], np.median(others, axis=0))
