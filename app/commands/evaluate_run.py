"""`python -m app evaluate RUN`: exact metrics of a trained run, on a split of its own or on another
source, as JSON, Markdown and figures."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from app.commands.chosen_split import open_split, open_together
from app.commands.saved_run import SavedRun
from app.distributed.world import World
from app.errors import UserError, suggest
from app.evaluation.evaluate import describe, evaluate
from app.evaluation.report import by_label, show_report, write_report
from app.evaluation.sureness import Sureness, coverage_table, of_unknown
from app.rundir.files import RunFiles

MOST_MISTAKES = 20


def evaluate_run(
    run_dir: Path,
    overrides: dict[str, Any],
    split: str | None,
    output: Path | None,
    world: World,
    checkpoint: str = "newest",
    weights: str | None = None,
    unknown_class: str | None = None,
) -> dict[str, Any]:
    """Score a run; every rank calls it. Returns what `evaluation.json` holds, on every rank.

    Args:
        run_dir: a directory that `train` made.
        overrides: `[data]` keys of another source; none for the run's own data.
        split: "train", "validation" or "test"; None for test, or all of a source without splits.
        output: where to write; None for RUN/evaluations/SPLIT or RUN/evaluations/SOURCE.
        checkpoint: "newest", "best", or the name of one.
        weights: "ema", "last", or None for the moving average if the run keeps one.
        unknown_class: the class of what belongs to none of the others; how well it is told from
            them is reported too.

    Raises UserError if the run's own data are not those that it was trained on, or if another
    source has examples of a class that the run does not know.
    """
    run = open_together(run_dir, checkpoint, weights, world)
    sureness = _sureness(run, unknown_class)
    choice, opened = open_split(run, overrides, split, world)
    results = evaluate(
        run.classifier, opened.split, world, MOST_MISTAKES, run.temperatures, sureness
    )
    rows = [one.gathered(world) for one in sureness]
    directory = output or RunFiles(run_dir).evaluations / choice.name
    about = {
        "command": _command(run_dir, overrides, split, output, checkpoint, weights, unknown_class),
        "run": str(run_dir),
        "checkpoint": run.checkpoint.name,
        "epoch": run.position["epoch"],
        "step": run.position["step"],
        **({"weights": run.uses} if run.uses else {}),
        "data": choice.dataset.name,
        "split": choice.split,
        "fingerprint": choice.fingerprint,
        "bad_examples": [dataclasses.asdict(one) for one in opened.bad.found],
        "no_examples": opened.bad.notes,
    }

    def write() -> dict[str, Any]:
        result = about | describe(results, run.heads, opened.source, run.kind == "text")
        for one, head, own, found in zip(
            by_label(result).values(), run.heads, sureness, rows, strict=True
        ):
            one["coverage"] = coverage_table(found)
            if own.unknown is not None:
                scores = results.heads[head.name]
                one["unknown_class"] = of_unknown(found, scores, head, own.unknown)
        write_report(directory, result, results)
        show_report(directory, result)
        return result

    return world.from_chief(write)


def _sureness(run: SavedRun, unknown_class: str | None) -> list[Sureness]:
    """What remembers how sure the run is, for each label."""
    if unknown_class is not None and not any(unknown_class in of for _, of in run.heads):
        names = [name for _, class_names in run.heads for name in class_names]
        raise UserError(
            f"--unknown-class {unknown_class}: {run.directory} knows no such class: "
            f"{suggest(unknown_class, names)}",
            shared=True,
        )
    return [
        Sureness(of.index(unknown_class) if unknown_class in of else None) for _, of in run.heads
    ]


def _command(
    run_dir: Path,
    overrides: dict[str, Any],
    split: str | None,
    output: Path | None,
    checkpoint: str,
    weights: str | None,
    unknown_class: str | None,
) -> str:
    """The command line that gives this evaluation again."""
    named = None if checkpoint == "newest" else checkpoint
    given = {"split": split, "checkpoint": named, "weights": weights, "output": output}
    given |= {"unknown_class": unknown_class, **overrides}
    flags = [
        text
        for key, value in given.items()
        if value is not None
        for text in ("--data" if key == "dataset" else f"--{key.replace('_', '-')}", str(value))
    ]
    return shlex.join(["python", "-m", "app", "evaluate", str(run_dir), *flags])
