"""Datasets of TensorFlow Datasets: written to disk, and loaded."""

from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from app.build import Data as Held
from app.build import hold_dataset, open_dataset
from app.data.bad import BadExamples
from app.distributed.world import World
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


def held(folder: Path, **keys: object) -> Held:
    """The whole way into memory."""
    bad = BadExamples()
    config = load(None, {"data_dir": str(folder), "validation": 0, **keys})
    return hold_dataset(config, open_dataset(config, bad, World()), bad, World())
