"""How a run is watched. That does not change the run, so these are options, not config keys.

Knows no TensorFlow, so that mistakes are reported at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app.errors import UserError


@dataclasses.dataclass(frozen=True)
class ProfiledSteps:
    """The optimizer steps `first` to `last`, from 1 and inclusive, on `ranks` (None: all)."""

    first: int
    last: int
    ranks: tuple[int, ...] | None = (0,)

    @classmethod
    def parse(cls, given: str) -> ProfiledSteps:
        """From FIRST:LAST, FIRST:LAST@RANK,RANK or FIRST:LAST@all. Raises UserError."""
        found = re.fullmatch(r"(\d+):(\d+)(?:@(all|\d+(?:,\d+)*))?", given, re.ASCII)
        if not found:
            raise UserError(
                f"--profile {given}: expected the first and the last step, such as 100:110, and, "
                "unless only rank 0 is meant, the ranks: 100:110@0,3 or 100:110@all"
            )
        first, last = int(found[1]), int(found[2])
        if not 1 <= first <= last:
            raise UserError(
                f"--profile {given}: steps are counted from 1, and the first must not come after "
                "the last"
            )
        if found[3] == "all":
            return cls(first, last, None)
        return cls(first, last, tuple(map(int, (found[3] or "0").split(","))))

    def __str__(self) -> str:
        ranks = "all" if self.ranks is None else ",".join(map(str, self.ranks))
        return f"{self.first}:{self.last}@{ranks}"

    def check(self, world_size: int) -> None:
        """Raises UserError, the same on every rank, for a rank that does not exist."""
        for rank in self.ranks or ():
            if rank >= world_size:
                raise UserError(
                    f"--profile {self}: there is no rank {rank}; the {world_size} rank(s) are "
                    "counted from 0",
                    shared=True,
                )


@dataclasses.dataclass(frozen=True)
class Monitoring:
    """`quiet`: no plan, progress or result on the screen; `profile`: steps for TensorBoard's
    profiler; `timeline`: have Horovod record its collectives."""

    quiet: bool = False
    profile: ProfiledSteps | None = None
    timeline: bool = False


@contextlib.contextmanager
def only_json(rank: Callable[[], int]) -> Iterator[list[Mapping[str, Any]]]:
    """Standard output holds one JSON object: the one that the block adds to the list, on the rank
    that is 0 by then.

    Anything else printed in the block, even by C libraries, goes to standard error.
    """
    results: list[Mapping[str, Any]] = []
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield results
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
    if rank() == 0 and results:
        # JSON has no NaN: such a loss becomes null.
        plain = json.loads(json.dumps(results[0]), parse_constant=lambda name: None)
        print(json.dumps(plain, indent=2, ensure_ascii=False), flush=True)
