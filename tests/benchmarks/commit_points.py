"""What a commit point costs, next to the steps between two of them.

    python -m tests.benchmarks.commit_points [KEY=VALUE ...]
    horovodrun -np 2 --gloo python -m tests.benchmarks.commit_points global_batch_size=64

Trains one epoch of synthetic images (32x32x3, `cnn`; keys change that) with a commit point every
100 steps, and prints the medians and the share of the time at the default distance.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main(*pairs: str) -> None:
    from app.config import Config
    from app.distributed.devices import connect_configured
    from app.loop import Loop
    from app.recipe import load
    from app.train import train

    keys = {
        "dataset": "synthetic-image:size=32,examples=40000",
        "global_batch_size": "32",
        "epochs": "1",
        "validation": "0",
        "commit_every_steps": "100",
        **dict(pair.split("=", 1) for pair in pairs),
    }
    world = connect_configured()
    commits: list[float] = []
    commit = Loop._commit

    def timed(loop: Loop, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return commit(loop, *arguments)
        finally:
            commits.append(time.perf_counter() - began)

    Loop._commit = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as directory:
        run = world.broadcast(str(Path(directory) / "run"))
        config = load(None, {**keys, "run_dir": run})
        metrics = train(config, world=world)
    step = config.training.examples_per_step(world.size) / metrics["examples_per_second"]
    once, every = statistics.median(commits[:-1]), Config().commit_steps
    if world.is_chief:
        print(
            f"{1e3 * step:.1f} ms per step, {1e3 * once:.0f} ms per commit point (median of "
            f"{len(commits) - 1}): {once / (every * step):.2%} of {every} steps"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
