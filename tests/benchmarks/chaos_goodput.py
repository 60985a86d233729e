"""A run whose ranks are killed every minute, beside the same under plain horovodrun and --resume.

Goodput is the time that an undisturbed run would take for the steps that count in the end, as a
share of the time that passed from the first step on. Each step is slowed down, so that its length
says little about the machine.
"""

import os
import random
import signal
import time
from pathlib import Path

from tests.benchmarks.chaos_run import RANKS, Run
from tests.integration.launching import BIN

EVERY_S, SLOW_MS, EPOCHS = 60.0, 200, 100_000


def compare_goodput(work: Path, minutes: float, seed: int) -> None:
    """Print a row for each of the two."""
    plain = [str(BIN / "horovodrun"), "-np", str(RANKS), "--gloo"]
    plain += [str(BIN / "python"), "-P", "-m", "app"]
    for name, launcher in (("elastic", []), ("horovodrun", plain)):
        run = Run(work / name, None, EPOCHS, launcher=launcher)
        run.story.slow(SLOW_MS)
        run.start()
        try:
            kills, goodput = _killed(run, 60 * minutes, random.Random(seed))
        finally:
            run.end()
        print(f"{name:11} goodput {goodput:6.1%}, {kills} kills in {minutes:g} min", flush=True)


def _killed(run: Run, seconds: float, rng: random.Random) -> tuple[int, float]:
    """Kill a rank from time to time; (how often, the goodput)."""
    kills = 0
    assert run.waits_for(lambda: run.story.step > 0), run.text
    began = _done(run)[0]["at"]
    while time.monotonic() < began + seconds:
        next_s = min(began + (kills + 1) * EVERY_S, began + seconds)
        while time.monotonic() < next_s:
            if run.launched.process.poll() is not None:
                run.start()
            time.sleep(0.1)
        if time.monotonic() < began + seconds and (pids := run.processes()):
            os.kill(rng.choice(pids), signal.SIGKILL)
            kills += 1
    passed_s = time.monotonic() - began
    step = max(note["step"] for note in run.story.worlds()[-1])
    return kills, step * _step_s(run) / passed_s


def _done(run: Run) -> list[dict]:
    return [note for note in run.story.notes if note["what"] == "done"]


def _step_s(run: Run) -> float:
    """The pace before the first kill, validation and checkpoints between steps included."""
    undisturbed = run.story.worlds()[0]
    at = [note["at"] for note in undisturbed if note["what"] == "done" and not note["rank"]]
    return (at[-1] - at[0]) / (len(at) - 1)
