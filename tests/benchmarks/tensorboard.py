"""What writing for TensorBoard costs: as a share of a run's time, and once per run.

    python -m tests.benchmarks.tensorboard [RECIPE.toml [KEY=VALUE ...]]

Trains in one process (default: the digits recipe) with a stopwatch around all calls to TensorBoard.
"""

import collections
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ONCE = ("__init__", "sees", "reported", "ended")
OFTEN = ("trained", "epoch_ended", "evaluated", "checkpointed", "agreed", "distributions")


class StopWatch:
    """Adds up the seconds spent in methods of a class; calls within calls count once."""

    def __init__(self, watched: type, names: tuple[str, ...]):
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._inside = False
        for name in names:
            setattr(watched, name, self._timed(name, getattr(watched, name)))

    def _timed(self, name: str, method: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return method(*arguments, **options)
            self._inside, began = True, time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                self._inside = False
                self.seconds[name] += time.perf_counter() - began

        return call


def main(recipe: str = "launch/recipes/digits.toml", *pairs: str) -> None:
    from app.monitor.tensorboard import TensorBoard
    from app.recipe import load
    from app.train import train

    watch = StopWatch(TensorBoard, ONCE + OFTEN)
    with tempfile.TemporaryDirectory() as directory:
        keys = dict(pair.split("=", 1) for pair in pairs)
        metrics = train(load(Path(recipe), {**keys, "run_dir": str(Path(directory) / "run")}))
    for kind, names in (("while training", OFTEN), ("once", ONCE)):
        spent = sum(watch.seconds[name] for name in names)
        parts = ", ".join(f"{name} {watch.seconds[name]:.3f}" for name in names)
        share = spent / metrics["seconds"]
        print(f"{kind}: {spent:.2f} s of {metrics['seconds']:.1f} s ({share:.1%}): {parts}")


if __name__ == "__main__":
    main(*sys.argv[1:])
