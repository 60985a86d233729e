"""Runs that have saved a checkpoint, and new models that may begin with their weights."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from app.build import build_classifier
from app.checkpoints.checkpoint import Checkpoints
from app.classifier import Classifier
from app.commands.saved_run import SavedRun, open_run
from app.data.plan import DataPlan
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World
from app.recipe import load
from app.rundir.contents import keep_run
from app.rundir.files import RunFiles
from app.state import SAVED, TrainState, state_variables

PLAN = DataPlan("photos", "image", ("cat", "dog", "owl"), "fingerprint", {"train": 1}, {}, False)
TOKENIZER = {
    "kind": "words",
    "ngrams": 1,
    "max_tokens": 16,
    "vocabulary": ["rain", "sun", "moon", "and", "warm"],
}


def run_of(directory: Path, plan: DataPlan, **keys: Any) -> SavedRun:
    """A run that has saved one checkpoint, with another value in every variable than at first."""
    config = load(None, keys)
    classifier = build_classifier(config, plan)
    optimizer = DistributedOptimizer(keras.optimizers.SGD(), world=World(), name="distributed")
    classifier.compile(optimizer)
    optimizer.build(classifier.trainable_variables)
    random = np.random.default_rng(0)
    for entry in state_variables(classifier):
        if entry.kind in SAVED:
            entry.variable.assign(random.uniform(0.5, 1.5, entry.variable.shape))
    keep_run(directory, config, plan)
    checkpoints = Checkpoints(RunFiles(directory).checkpoints, keep=2)
    checkpoints.save(TrainState(classifier, optimizer, 0, step=3), {"world_size": 1})
    return open_run(directory)


def fresh(run: SavedRun, plan: DataPlan, **keys: Any) -> Classifier:
    """A new model like that of a run, with other initial weights, for what `plan` says."""
    toml = run.directory / "config.toml"
    return build_classifier(load(toml, {"seed": 7, **keys}), plan)


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {entry.path: entry.variable.numpy() for entry in state_variables(model)}
