"""Datasets of TensorFlow Datasets: written to disk, and loaded."""

from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from app.data.bad import BadExamples
from app.data.hold import hold
from app.decide import decide
from app.distributed.world import World
from app.load import LoadedData, open_dataset
from app.recipe import load

LABEL = tfds.features.ClassLabel(names=["cat", "dog"])


def store(folder: Path, name: str, features: dict[str, Any], **splits: list[dict]) -> None:
    """Write a dataset of these examples, in this order."""
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: list(enumerate(rows)) for split, rows in splits.items()},
        disable_shuffling=True,
    )


def held(folder: Path, **keys: object) -> LoadedData:
    """The whole way into memory."""
    bad = BadExamples()
    config = load(None, {"data_dir": str(folder), "validation": 0, **keys})
    dataset = open_dataset(config, bad, World())
    plan, dataset, pixels = decide(config.data, dataset, bad, World())
    splits = hold(plan, config.data, dataset.splits, pixels)
    return LoadedData(dataset, splits, plan, bad.found, plan.notes)
