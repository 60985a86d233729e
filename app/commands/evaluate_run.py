"""`python -m app evaluate RUN`: exact metrics of a trained run, on a split of its own or on another
source, as JSON, Markdown and figures."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from app.commands.chosen_split import open_split
from app.distributed.world import World
from app.evaluation.evaluate import describe, evaluate
from app.evaluation.report import show_report, write_report
from app.run_files import RunFiles

MOST_MISTAKES = 20


def evaluate_run(
    run_dir: Path,
    overrides: dict[str, Any],
    split: str | None,
    output: Path | None,
    world: World,
    checkpoint: str = "newest",
) -> dict[str, Any]:
    """Score a run; every rank calls it. Returns what `evaluation.json` holds, on every rank.

    Args:
        run_dir: a directory that `train` made.
        overrides: `[data]` keys of another source; none for the run's own data.
        split: "train", "validation" or "test"; None for test, or all of a source without splits.
        output: where to write; None for RUN/evaluations/SPLIT or RUN/evaluations/SOURCE.
        checkpoint: "newest", "best", or the name of one.

    Raises UserError if the run's own data are not those that it was trained on, or if another
    source has examples of a class that the run does not know.
    """
    run, choice, opened = open_split(run_dir, overrides, split, checkpoint, world)
    results = evaluate(run.classifier, opened.split, world, MOST_MISTAKES)
    directory = output or RunFiles(run_dir).evaluations / choice.name
    about = {
        "command": _command(run_dir, overrides, split, output, checkpoint),
        "run": str(run_dir),
        "checkpoint": run.checkpoint.name,
        "epoch": run.position["epoch"],
        "step": run.position["step"],
        "data": choice.dataset.name,
        "split": choice.split,
        "fingerprint": choice.fingerprint,
        "bad_examples": [dataclasses.asdict(one) for one in opened.bad.found],
        "no_examples": opened.bad.notes,
    }

    def write() -> dict[str, Any]:
        result = about | describe(results, run.heads, opened.source, run.kind == "text")
        write_report(directory, result, results)
        show_report(directory, result)
        return result

    return world.from_chief(write)


def _command(
    run_dir: Path,
    overrides: dict[str, Any],
    split: str | None,
    output: Path | None,
    checkpoint: str,
) -> str:
    """The command line that gives this evaluation again."""
    named = None if checkpoint == "newest" else checkpoint
    given = {"split": split, "checkpoint": named, "output": output, **overrides}
    flags = [
        text
        for key, value in given.items()
        if value is not None
        for text in ("--data" if key == "dataset" else f"--{key.replace('_', '-')}", str(value))
    ]
    return shlex.join(["python", "-m", "app", "evaluate", str(run_dir), *flags])
