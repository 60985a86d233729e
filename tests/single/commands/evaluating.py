"""Evaluates a run, or a copy of it that a test has changed, and reads what its own data hold."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from app.checkpoints.files import read_files, write_files
from app.checkpoints.snapshot import Snapshot
from app.commands.evaluate_run import evaluate_run
from app.data.bad import BadExamples
from app.data.batches import Loaded
from app.data.catalogue import load_dataset
from app.distributed.world import World
from app.evaluation.report import to_markdown
from app.recipe import load

FILES = {"evaluation.json", "evaluation.md", "confusion.png", "reliability.png", "f1.png"}


def run_on(path: Path, split: str | None = None, output: Path | None = None, **overrides):
    return evaluate_run(path, overrides, split, output, World())


def check_test_split(path: Path, metrics: dict[str, Any]) -> None:
    """It scores as at the end of training, and all about it is written."""
    result = run_on(path)
    assert result["accuracy"] == metrics["test_accuracy"]
    assert result["loss"] == pytest.approx(metrics["test_loss"], rel=1e-6)
    assert result["examples"] == metrics["test_examples"]
    recall = {row["class"]: row["recall"] for row in result["classes"]}
    assert recall == metrics["test_recall"]
    assert result["accuracy"] > 0.3  # it has learnt, or equal numbers say little
    folder = path / "evaluations" / "test"
    assert {file.name for file in folder.iterdir()} == FILES
    assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8")) == result
    assert (folder / "evaluation.md").read_text(encoding="utf-8") == to_markdown(result)


def copy_of(path: Path, folder: Path) -> Path:
    return Path(shutil.copytree(path, folder / "copied"))


def set_weights(path: Path, bias_of_first: float) -> None:
    """Make the network say one thing of everything."""
    checkpoint = max((path / "checkpoints").glob("step-*"))
    arrays, meta, _ = read_files(checkpoint)
    arrays = {name: np.zeros_like(array) for name, array in arrays.items()}
    arrays["logits/bias"][0] = bias_of_first
    write_files(checkpoint, Snapshot(meta["step"], arrays, json.dumps(meta).encode()))


def open_test_labels(path: Path) -> np.ndarray:
    return load_dataset(load(path / "config.toml", {}).data, 0, BadExamples()).test.labels


def first_of_test(path: Path, number: int) -> Loaded:
    test = load_dataset(load(path / "config.toml", {}).data, 0, BadExamples()).test
    return Loaded(tf.constant(test.inputs[:number]), test.labels[:number])
