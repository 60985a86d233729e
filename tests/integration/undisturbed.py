"""A run that nobody disturbs, and whether one that was killed counts the same.

No example is missing or twice in what counted if the weights, the optimizer and the sums behind the
metrics of every checkpoint have the bits of the undisturbed run: after as many steps over other
examples, or over the same ones in another order, they would differ. (That each epoch's order has
every example once is for tests/parallel.)
"""

import json
import time
from pathlib import Path

from tests.integration.crashing import Run, content, step_of

EXACT = ("test_accuracy", "test_loss", "test_examples", "test_recall", "seed", "step", "epoch",
         "examples_trained_on", "world_size")  # fmt: skip


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
        """Where the sound checkpoints that a run has now, and we had too, differ from ours."""
        found = []
        for path in run.checkpoints():
            ours = self.contents.get(path.name)
            # A slow disk lets a run leave out a checkpoint when the next one is due.
            if ours is None or run.is_damaged(path):
                continue
            theirs = content(path)
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
