"""`python -m app calibrate RUN`: temperatures of a trained run, found on its validation split."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from app.columns import columns
from app.commands.chosen_split import open_split, open_together
from app.commands.saved_run import SavedRun
from app.data.batches import Split
from app.data.heads import MISSING
from app.distributed.world import World
from app.errors import UserError
from app.evaluation.calibration import fit_temperature
from app.evaluation.evaluate import evaluate, scored
from app.evaluation.results import Results
from app.evaluation.scores import finite
from app.rundir.contents import write_file
from app.rundir.files import RunFiles

LOG = logging.getLogger(__name__)


def calibrate_run(run_dir: Path, world: World, checkpoint: str = "newest") -> dict[str, Any]:
    """Find the temperature of each label and keep it with the run; every rank calls it.

    Args:
        run_dir: a directory that `train` made, with a validation split.
        checkpoint: "newest", "best", or the name of one.

    Returns what the file holds, on every rank: "checkpoint", "weights" (which they are),
    "temperatures", and for each label in "validation" its loss and its calibration error, before
    and after. Raises UserError if there is nothing to calibrate on, or no number is finite.
    """
    run = open_together(run_dir, checkpoint, None, world)
    if "validation" not in run.plan.examples:
        raise UserError(
            f"{run_dir} has no validation split to calibrate on: train with --validation 0.1",
            shared=True,
        )
    _, opened = open_split(run, {}, "validation", world)
    temperatures = _fitted(run, opened.split, world)
    results = evaluate(run.classifier, opened.split, world, temperatures=temperatures)
    about = {
        "checkpoint": run.checkpoint.name,
        "weights": run.identity,
        "temperatures": temperatures,
        "validation": {head.name: _before_and_after(results, head.name) for head in run.heads},
    }
    file = RunFiles(run_dir).calibration(run.checkpoint.name)
    world.from_chief(lambda: _keep(file, about))
    return about


def _fitted(run: SavedRun, split: Split, world: World) -> dict[str, float]:
    """The temperature of each label; 1 where its examples do not tell one; a collective."""
    parts = list(scored(run.classifier, split, world))
    found = {}
    for number, head in enumerate(run.heads):
        none = np.zeros((0, len(head.class_names)), np.float32)
        logits = np.concatenate([none, *(of_heads[number] for _, _, of_heads in parts)])
        labels = np.concatenate([np.zeros(0, np.int64), *(of[:, number] for _, of, _ in parts)])
        known = labels != MISSING
        bad, examples = world.sum(np.array([(~np.isfinite(logits)).sum(), known.sum()]))
        if bad:
            raise UserError(
                f"{run.directory} gives numbers that are not finite: has its training diverged?",
                shared=True,
            )
        temperature = fit_temperature(logits[known], labels[known], world.sum)
        if temperature is None and world.is_chief:
            what = f" of {head.name}" if len(run.heads) > 1 else ""
            LOG.warning(
                "the %d validation examples%s tell no temperature: all are right, or no more than "
                "by chance; probabilities stay as they are",
                examples,
                what,
            )
        found[head.name] = 1.0 if temperature is None else temperature
    return found


def _before_and_after(results: Results, name: str) -> dict[str, Any]:
    before, after = results.raw[name], results.heads[name]
    return {
        "examples": after.examples,
        "loss_before": finite(before.loss),
        "loss": finite(after.loss),
        "calibration_error_before": finite(before.calibration_error),
        "calibration_error": finite(after.calibration_error),
    }


def _keep(file: Path, about: dict[str, Any]) -> None:
    """Write the file, and say what is in it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from None
    facts = {"checkpoint": about["checkpoint"]}
    for name, temperature in about["temperatures"].items():
        one = about["validation"][name]
        facts[name] = f"temperature {temperature:.3f}"
        if one["examples"] and one["loss"] is not None:
            facts[name] += (
                f"; calibration error {one['calibration_error_before']:.2%} -> "
                f"{one['calibration_error']:.2%}, loss {one['loss_before']:.4f} -> "
                f"{one['loss']:.4f} on {one['examples']:,} validation examples"
            )
    facts["kept in"] = str(file)
    print(f"\nCalibration\n{columns(list(facts.items()))}\n", flush=True)
