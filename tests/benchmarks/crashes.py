"""A run that is killed at many random moments and started again each time: nothing may be lost.

    python -m tests.benchmarks.crashes [--kills 50] [--ranks 4] [--seed 0] [--kinds stop,all]

Trains digits once undisturbed. Then again, killed over and over and resumed, until so many kills
have fallen; a run that has ended makes room for the next. Kinds of kill: SIGKILL to the `launcher`,
to `all` processes, and to all while a checkpoint is being written (`writing`); `stop` is SIGTERM to
the launcher. A rank alone is recovered from: chaos.py. Moments are spread over start-up, training
and its validations, and what follows the last step. After a third of the kills the newest
checkpoint is damaged. What is compared: tests/integration/undisturbed.py. Exit code 1 if anything
was wrong; the files stay then.

A row is one start. "lost": the steps that the kill before it cost; "ends": seconds from the kill to
the end of the launcher.
"""

import argparse
import itertools
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.integration.crashing import KINDS, Attempt, Moment, Run
from tests.integration.undisturbed import Undisturbed

DAMAGED, IN_START, AT_END = 0.33, 0.35, 0.15  # shares of the kills
MOST_COMMITS = 8
HEADING = "  no.  from  lost  kill      falls in   step  code     s  ends  and then"


def moments(whole: Undisturbed, kinds: list[str], seed: int) -> Iterator[Moment]:
    """Moments without end; each kind as often as the others."""
    rng = random.Random(seed)
    for kind in itertools.chain.from_iterable(rng.sample(kinds, len(kinds)) for _ in iter(int, 1)):
        chance = rng.random()
        if chance < IN_START:
            yield Moment(kind, 0, rng.uniform(0, whole.start_s))
        elif chance < IN_START + AT_END:
            yield Moment(kind, 0, rng.uniform(0, whole.end_s), after_last=True)
        else:
            yield Moment(kind, rng.randint(1, MOST_COMMITS), rng.uniform(0, 1))


class Ledger:
    """What came of the kills: prints a row for each start, and adds up."""

    def __init__(self) -> None:
        self.kills: dict[str, int] = defaultdict(int)
        self.lost: dict[str, list[int]] = defaultdict(list)
        self.caught = self.damaged = self.runs = 0
        self.problems: list[str] = []
        self._reached, self._kind = 0, ""  # the newest step of this run, and what ended it

    @property
    def total(self) -> int:
        return sum(self.kills.values())

    def started_over(self) -> None:
        """A run is complete, and the next one begins."""
        self.runs += 1
        self._reached, self._kind = 0, ""

    def add(self, attempt: Attempt, then: str) -> None:
        lost = None
        if attempt.resumed_from is not None:
            lost = max(0, self._reached - attempt.resumed_from)
            if self._kind:
                self.lost[self._kind].append(lost)
            self._reached, self._kind = attempt.last_step or 0, attempt.kind
        elif attempt.kind != "none":
            self._kind = self._kind or attempt.kind
        if attempt.kind != "none":
            self.kills[attempt.kind] += 1
        self.caught += attempt.kind == "writing" and attempt.caught
        print(
            f"{self.total:5} {_or_dash(attempt.resumed_from):>5} {_or_dash(lost):>5}  "
            f"{attempt.kind:9} {attempt.phase:9} {_or_dash(attempt.last_step):>5} "
            f"{attempt.code:5} {attempt.seconds:5.0f} {attempt.ending_s:5.1f}  {then}",
            flush=True,
        )

    def summary(self) -> None:
        print("\nkill         number  steps lost: mean  most")
        for kind, number in sorted(self.kills.items()):
            lost = self.lost[kind] or [0]
            print(f"{kind:12} {number:6} {statistics.mean(lost):17.1f} {max(lost):5}")
        print(f"{self.total} kills, {self.caught} of them left a half-written checkpoint; "
              f"{self.damaged} checkpoints damaged; {self.runs} run(s) finished; "
              f"{len(self.problems)} problem(s)")  # fmt: skip


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def crash(work: Path, options: argparse.Namespace) -> Ledger:
    """Kill and resume until the kills are used up and the run that they fell in has finished."""
    keys, ledger = ["--epochs", str(options.epochs)], Ledger()
    whole = Undisturbed(work, options.ranks, *keys)
    print(
        f"undisturbed: {whole.final_step} steps in {whole.attempt.seconds:.0f} s, first checkpoint "
        f"after {whole.start_s:.1f} s, {whole.end_s:.1f} s after the last\n\n{HEADING}",
        flush=True,
    )
    coming, rng = moments(whole, options.kinds, options.seed), random.Random(options.seed)
    while ledger.total < options.kills:
        run = Run(work, f"run-{ledger.runs}", options.ranks, *keys, "--keep-checkpoints", "3")
        run.final_step, finished = whole.final_step, False
        while not finished:
            attempt = run.attempt(next(coming) if ledger.total < options.kills else None)
            finished = attempt.finished
            wrong = [*attempt.problems]
            wrong += whole.differences_at_end(run) if finished else whole.differences(run)
            then = "finished" if finished else ""
            if not finished and rng.random() < DAMAGED:
                then = run.damage(rng.choice(("truncate", "flip"))) or ""
                ledger.damaged += bool(then)
            ledger.add(attempt, then)
            for problem in wrong:
                print(f"      WRONG: {problem}", flush=True)
                ledger.problems.append(f"{problem}\n{attempt.output}")
            if attempt.kind == "none" and not finished:
                return ledger  # it does not come back by itself
        ledger.started_over()
    return ledger


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=[*KINDS])
    options = parser.parse_args()
    if unknown := {*options.kinds} - {*KINDS}:
        parser.error(f"--kinds: {sorted(unknown)[0]} is not one of {', '.join(KINDS)}")
    began, work = time.monotonic(), Path(tempfile.mkdtemp(prefix="crashes-"))
    ledger = crash(work, options)
    ledger.summary()
    print(f"{time.monotonic() - began:.0f} s")
    if not ledger.problems:
        shutil.rmtree(work)
        return 0
    for problem in ledger.problems:
        print(f"\n--- {problem}")
    print(f"\nthe files are in {work}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
