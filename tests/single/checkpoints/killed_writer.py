"""Kills a process that writes checkpoints, again and again, and reads what it has left.

    python -m tests.single.checkpoints.killed_writer DIRECTORY KILLS

Prints what it found. The process is forked, since it takes seconds to start; it trains nothing.
"""

import json
import mmap
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from app.checkpoints.checkpoint import Checkpoints
from app.checkpoints.files import Score, read_files
from app.checkpoints.snapshot import FORMAT, Snapshot
from app.rundir.files import list_checkpoints
from app.state import POSITION


def snapshot_of(step: int) -> Snapshot:
    arrays = {f"layer/{number}": np.full(20_000, step, np.float32) for number in range(5)}
    position = dict.fromkeys(POSITION, 0) | {"step": step}
    about = {"format": FORMAT, **position, "metrics": {}, "optional": []}
    return Snapshot(step, arrays, json.dumps(about).encode())


def write_for_ever(checkpoints: Checkpoints, done: mmap.mmap) -> None:
    step = int.from_bytes(done[:8], "little")
    while True:
        path = checkpoints.write(snapshot_of(step))  # the first replaces one of the same step
        done[:8] = step.to_bytes(8, "little")
        checkpoints.score(step, Score(1 / (1 + step % 7), 0.5))
        checkpoints.forget(path)
        step += 1


def main(directory: Path, kills: int) -> None:
    checkpoints, done = Checkpoints(directory, 2, "loss"), mmap.mmap(-1, 8)
    pick = random.Random(0)
    for _ in range(kills):
        child = os.fork()
        if not child:
            write_for_ever(checkpoints, done)
        time.sleep(pick.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        step = int.from_bytes(done[:8], "little")
        if not list_checkpoints(directory) and not step:
            continue
        found = list_checkpoints(directory)
        for path in found:
            content = read_files(path)
            assert (content.arrays["layer/4"] == content.meta["step"]).all(), path
        newest, content = checkpoints.newest()
        assert content.meta["step"] >= step, (newest, step)
        assert len(found) <= 4, found  # two, the best, and one that was to be removed
    checkpoints.write(snapshot_of(step + 1))
    left = [path.name for path in directory.iterdir() if path.name.startswith(".")]
    print(f"{kills} kills, {step} steps, left: {left}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
