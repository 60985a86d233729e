"""A run that nobody disturbs, and whether one that was killed counts the same.

No example is missing or twice in what counted if the weights, the optimizer and the sums behind the
metrics of every checkpoint have the bits of the undisturbed run: after as many steps over other
examples, or over the same ones in another order, they would differ. (That each epoch's order has
every example once is for tests/parallel.)
"""

import json
import time
from pathlib import Path
from typing import Any

import safetensors.numpy

from app.run_files import STATE
from tests.integration.crashing import Run, step_of

EXACT = ("test_accuracy", "test_loss", "test_examples", "test_recall", "seed", "step", "epoch",
         "examples_trained_on", "world_size")  # fmt: skip


def content(checkpoint: Path) -> dict[str, Any]:
    """What must be the same in a run that was killed: each array's bytes, the position, and the
    sums behind the metrics."""
    said = json.loads((checkpoint / STATE).read_text())
    found: dict[str, Any] = {
        name: said[name] for name in ("step", "epoch", "examples_seen", "seed", "metrics")
    }
    for file in sorted(checkpoint.glob("*.safetensors")):
        for name, array in safetensors.numpy.load_file(file).items():
            found[name] = (array.dtype, array.shape, array.tobytes())
    return found


class Undisturbed:
    """A run that nobody disturbs and that keeps all of its checkpoints: what others compare with.
    `start_s`, `end_s`: from the start to its first checkpoint, and from the last to the end."""

    def __init__(self, work: Path, ranks: int, *options: str):
        run = Run(work, "undisturbed", ranks, *options, "--keep-checkpoints", "10000")
        began = time.time()
        self.attempt = run.attempt()
        if not self.attempt.finished or self.attempt.problems:
            raise AssertionError(f"{self.attempt.problems}\n{self.attempt.output}")
        found = run.checkpoints()
        self.contents = {path.name: content(path) for path in found}
        self.metrics = json.loads(run.files.metrics.read_text())
        self.final_step = step_of(found[-1])
        written = [path.stat().st_mtime for path in found]
        self.start_s = written[0] - began
        self.end_s = began + self.attempt.seconds - written[-1]

    def differences(self, run: Run) -> list[str]:
        """Where the sound checkpoints that a run has now differ from ours."""
        found = []
        for path in run.checkpoints():
            if run.is_damaged(path):
                continue
            ours, theirs = self.contents.get(path.name), content(path)
            if ours is None:
                found.append(f"{path.name}: the undisturbed run has no such checkpoint")
                continue
            names = [n for n in sorted({*ours, *theirs}) if ours.get(n) != theirs.get(n)]
            if names:
                found.append(f"{path.name}: {len(names)} entries differ, first {names[0]}")
        return found

    def differences_at_end(self, run: Run) -> list[str]:
        """Where a finished run differs from ours: checkpoints, results, what it leaves."""
        found = self.differences(run)
        if f"step-{self.final_step:08d}" not in {path.name for path in run.checkpoints()}:
            found.append("the last checkpoint is missing")
        metrics = json.loads(run.files.metrics.read_text())
        found += [f"{name} is {metrics[name]}, not {self.metrics[name]}"
                  for name in EXACT if metrics[name] != self.metrics[name]]  # fmt: skip
        left = [*run.files.checkpoints.glob(".*"), *run.files.directory.glob(".*")]
        return found + [f"left {path}" for path in left]
