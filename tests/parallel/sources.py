"""The same examples as folders and records, small, and a loop over them."""

import functools
import io
from pathlib import Path

import keras
import numpy as np
from PIL import Image

import app.data.export
import app.data.hold
import app.data.sources.image_files
import app.data.survey
import app.decide
import app.load
from app.build import build_optimizer, build_schedule
from app.classifier import Classifier
from app.data.examples import Dataset, Examples
from app.distributed.replicas import broadcast_state
from app.learning.task import class_weights
from app.load import load_data
from app.loop import Loop
from app.recipe import load
from app.state import TrainState
from tests.parallel.runs import BATCH, CLASSES

FLOAT32_BOUND = 2e-6  # as in test_equality.py
EXAMPLES, TESTS = 126, 12  # the last of 6 batches is a single example, as in runs.py
EPOCHS, STEPS = 2, 12
CROPS = {"flip": "horizontal", "crop_padding": 2}
LABELS = np.random.default_rng(2).choice(CLASSES, EXAMPLES + TESTS, p=[0.5, 0.25, 0.13, 0.08, 0.04])


def pixels() -> np.ndarray:
    """Noise, uint8 (n, 8, 8, 1); the first pixel of image i is i."""
    noise = np.random.default_rng(3).integers(0, 256, (len(LABELS), 8, 8, 1)).astype(np.uint8)
    noise[:, 0, 0, 0] = np.arange(len(LABELS))
    return noise


def sentences() -> np.ndarray:
    """Texts of 2 to 11 words; the first two of text i are the digits of i."""
    rng = np.random.default_rng(4)
    texts = [f"a{i // 12} b{i % 12}" + " c" * rng.integers(0, 10) for i in range(len(LABELS))]
    return np.array(texts, dtype=object)


def image_bytes(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def dataset(name: str, kind: str, inputs: np.ndarray) -> Dataset:
    train, test = (
        Examples(inputs[part], LABELS[part]) for part in (slice(EXAMPLES), slice(EXAMPLES, None))
    )
    names = tuple(str(label) for label in range(CLASSES))
    return Dataset(name, kind, names, train, None, test, image_shape=(8, 8, 1))  # type: ignore


def write_sources(place: Path) -> None:
    """The same images as files and as records, texts as records, in shards of some 15 examples."""
    for number, image in enumerate(pixels()):
        split = "train" if number < EXAMPLES else "test"
        path = place / "folder" / split / str(LABELS[number]) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(image[:, :, 0]))
    app.data.export.SHARD_BYTES, usual = 2_500, app.data.export.SHARD_BYTES
    app.data.export.export_tfrecord(dataset("r", "image", pixels()), place / "records", 0, None)
    app.data.export.SHARD_BYTES = 1_000
    app.data.export.export_tfrecord(dataset("t", "text", sentences()), place / "texts", 0, None)
    app.data.export.SHARD_BYTES = usual


def config_of(place, source: str, **keys):
    """A config for "SOURCE HOLD", such as "records stream"."""
    name, hold = source.split()
    model = "bag" if name == "texts" else "cnn"
    common = {"dataset": str(place / name), "hold": hold, "model": model, "validation": 0}
    how = {"optimizer": "sgd", "learning_rate": 0.05, "learning_rate_scaling": "none"}
    size = {"epochs": EPOCHS, "global_batch_size": BATCH, "schedule": "constant", "seed": 3}
    return load(None, {**common, **how, **size, **keys})


@functools.cache
def opened(world, place, source: str):
    data = load_data(config_of(place, source), world)
    assert data.plan.stream == source.endswith("stream")
    return data


def loop_of(world, config, train_split, network, callbacks=()) -> Loop:
    """The application's loop over a split, from the chief's weights; seeds differ by rank."""
    keras.utils.set_random_seed(11 + world.rank)
    weights = None
    if config.training.imbalance == "class_weights":
        weights = class_weights(train_split.labels, CLASSES)
    classifier = Classifier(network(), config.training.label_smoothing, weights)
    return loop_around(world, config, train_split, classifier, callbacks)


def loop_around(world, config, train_split, classifier, callbacks=()) -> Loop:
    """The same for a classifier that is made already."""
    schedule = build_schedule(config, world.size)
    optimizer = build_optimizer(config, schedule, world)
    classifier.compile(optimizer)
    optimizer.build(classifier.trainable_variables)
    state = TrainState(classifier, optimizer, config.training.seed)
    broadcast_state(world, classifier, optimizer, state.seed, 0)
    return Loop(config, world, state, schedule, {"train": train_split}, [], None, callbacks)


def trained(world, config, train_split, network) -> list[np.ndarray]:
    """The trainable variables after two epochs."""
    loop = loop_of(world, config, train_split, network)
    loop.run()
    assert loop.state.step == STEPS
    return [variable.numpy() for variable in loop.classifier.trainable_variables]
