"""What tests of TensorBoard write, and how they read it back from the event files."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.data.batches import Batch
from app.distributed.telemetry import StepFacts
from app.evaluation.results import Results
from app.evaluation.scores import Mistake, Scores
from app.monitor.event_files import event_files, events
from app.monitor.goodput import CAUSES, GoodputSummary
from app.monitor.progress import Place, Progress
from app.monitor.timing import RankTimes

SCORES = Scores(np.array([[3, 1], [0, 4]]), 4.0, mistakes=(Mistake(5, 0, 1, 0.75),))
RESULTS = Results({"label": SCORES})
ABOUT = {"kind": "image", "class_names": ["cat", "dog"], "tokenizer": None}
START = Place(0, 0, 0)
GOODPUT = GoodputSummary(
    {"steps": 8.0, **dict.fromkeys(CAUSES, 0.0), "start": 4.0, "restart": 4.0}, 1
)


def progress(step: int, epoch: int = 1) -> Progress:
    metrics = {"loss": 1.0 / step, "accuracy": 0.5}
    return Progress(epoch, step, metrics, 1234.5, 0.01, examples=step * 10, skipped_steps=2)


def reported(step: int) -> Progress:
    """Progress with all that two ranks report."""
    table = np.array([[10, 5.0, 1.0, 3.0, 1.0], [10, 5.0, 0.5, 4.5, 0.5]])
    return dataclasses.replace(
        progress(step),
        times=RankTimes.of(table),
        memory_bytes=np.array([1e9, 2e9]),
        facts=StepFacts(3.0, 10.0, 0.1, 0.25),
        loss_scale=1024.0,
        bytes_sent=2e6,
        bytes_uncompressed=4e6,
    )


def values(folder: Path) -> list[tuple[str, int, Any]]:
    """(tag, step, summary value) of all event files of a folder, in the order written."""
    return [
        (value.tag, event.step, value)
        for path in event_files(folder)
        for event in events(path)
        for value in event.summary.value
    ]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar, in the order written."""
    found: dict[str, list[tuple[int, float]]] = {}
    for tag, step, value in values(folder):
        if value.metadata.plugin_data.plugin_name == "scalars":
            found.setdefault(tag, []).append((step, float(tf.make_ndarray(value.tensor))))
    return found


def text(folder: Path, tag: str) -> str:
    (found,) = (value for name, _, value in values(folder) if name == tag)
    return found.tensor.string_val[0].decode()


def images(folder: Path, tag: str) -> list[tuple[int, int]]:
    """(height, width) of the images under a tag."""
    found = [value.tensor.string_val for name, _, value in values(folder) if name == tag]
    return [tf.io.decode_png(png).shape[:2] for strings in found for png in strings[2:]]


def network() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))


def batch(targets: Any = None) -> Batch:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    return Batch(tf.constant(pixels), tf.constant([0, 1, 1], tf.int64), targets=targets)
