"""Examples/s of the input pipeline: by source, by augmentation and by number of cores.

    python -m tests.benchmarks.input [--tfds-dir DIR] [--rounds 3]

All variants of a table take turns within one process, so that a noisy machine slows all alike; a
figure is the median over rounds. "no work" is the same pipeline over the same plan, with batches
made in advance; "cnn, training" is the rate at which training that model consumes examples, in
batches of 64 held in memory, one process on all cores. For text the model is `bag`. Images are
32x32x3 unless a size is given; the JPEG files are made by the benchmark.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from app.build import build_classifier, build_optimizer, build_schedule
from app.config import Config
from app.data.augment.augment import Augment
from app.data.batches import Batch, Feed, Split
from app.data.order import EpochPlan, orders_of
from app.distributed.world import World
from app.load import load_data
from app.recipe import load

BATCH = 64
MOST_EXAMPLES = 20_000
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "flip": {"flip": "horizontal"},
    "crop": {"crop_padding": 4},
    "flip and crop": {"flip": "horizontal", "crop_padding": 4},
    "trivialaugment": {"auto_augment": "trivialaugment"},
    "random erasing": {"random_erasing": 0.5},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
}


class NoWork:
    """The same pipeline with one batch made in advance."""

    files_of = None
    workers = 1

    def __init__(self, split: Split):
        self.labels = split.labels
        self.batch = split.inputs(np.arange(BATCH), split.longest(np.arange(BATCH)))

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, rows: np.ndarray, longest: int) -> tf.Tensor:
        return self.batch

    def longest(self, indices: np.ndarray) -> int:
        return 0


def consumer(feed: Feed) -> Callable[[], float]:
    """A function that measures an epoch, at most `MOST_EXAMPLES`, of one rank, in examples/s."""
    split = feed.split
    whole = orders_of(split.labels, split.files_of, False)(0, 0)
    order = whole[np.arange(min(MOST_EXAMPLES, len(whole)))]

    def measure() -> float:
        began = time.perf_counter()
        for _ in feed.training(EpochPlan(order, BATCH, 1), 0):
            pass
        return len(order) / (time.perf_counter() - began)

    return measure


def train_speed(config: Config, world: World) -> Callable[[], float]:
    """A function that measures training on batches in memory, in examples/s."""
    data = load_data(config, world)
    split = data.splits["train"]
    classifier = build_classifier(config, data.plan)
    classifier.compile(build_optimizer(config, build_schedule(config, world.size), world))
    classifier.optimizer.build(classifier.trainable_variables)
    step = tf.function(classifier.train_step, autograph=False, reduce_retracing=True)
    rows = np.arange(BATCH)
    inputs = split.inputs(rows, split.longest(rows))
    batch = Batch(inputs, tf.constant(split.labels[rows]), tf.constant(BATCH, tf.int64))
    step(batch)

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(100):
            step(batch)
        return 100 * BATCH / (time.perf_counter() - began)

    return measure


def table(title: str, variants: dict[str, Callable[[], float]], rounds: int) -> None:
    """Let the variants take turns, and print medians and their ratios to the first."""
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, measure in variants.items():
            rate = measure()
            if number:  # the first round warms up
                rates[name].append(rate)
    print(f"\n{title}")
    first = statistics.median(next(iter(rates.values())))
    for name, values in rates.items():
        middle = statistics.median(values)
        print(
            f"  {name:32} {middle:11,.0f} examples/s ({min(values):,.0f} to {max(values):,.0f})"
            f"  {middle / first:8.1%}"
        )


def split_of(**keys: Any) -> Split:
    return load_data(load(None, keys), World()).splits["train"]


def write_images(folder: Path, number: int, size: int) -> Path:
    """A folder of JPEG files in two classes."""
    rng = np.random.default_rng(0)
    for index in range(number):
        small = rng.integers(0, 256, (8, 8, 3)).astype(np.float32)
        image = tf.cast(tf.image.resize(small, (size, size)), tf.uint8)
        path = folder / str(index % 2) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        tf.io.write_file(str(path), tf.io.encode_jpeg(image))
    return folder


def on_cores(split: Split, cores: int) -> Callable[[], float]:
    """A function that consumes with `cores` workers, on as many cores."""
    consume = consumer(Feed(split))

    def measure() -> float:
        everything = os.sched_getaffinity(0)
        os.sched_setaffinity(0, set(list(everything)[:cores]))
        split.workers = cores  # type: ignore[misc]
        try:
            return consume()
        finally:
            os.sched_setaffinity(0, everything)

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--tfds-dir", type=Path, help="with cifar10 and clinc150 in it")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure_images(options, folder)
        measure_texts(options)
        files = split_of(
            dataset=str(write_images(folder / "large", 400, 500)), image_size=224, hold="stream"
        )
        cores = range(1, len(os.sched_getaffinity(0)) + 1)
        variants = {f"{n} core(s)": on_cores(files, n) for n in cores}
        table("decoding 500x500 JPEG files to 224x224", variants, options.rounds)


def measure_images(options: argparse.Namespace, folder: Path) -> None:
    memory = split_of(dataset=f"synthetic-image:examples={MOST_EXAMPLES}")
    small = write_images(folder / "small", 5000, 32)
    sources = {
        "no work": NoWork(memory),
        "synthetic, in memory": memory,
        "JPEG files, streamed": split_of(dataset=str(small), hold="stream"),
    }
    if options.tfds_dir:
        cifar = {"dataset": "cifar10", "data_dir": str(options.tfds_dir)}
        sources["CIFAR-10, in memory"] = split_of(**cifar)
        sources["CIFAR-10 TFRecord, streamed"] = split_of(**cifar, hold="stream")
    variants = {name: consumer(Feed(split)) for name, split in sources.items()}
    images = load(None, {"dataset": "synthetic-image", "model": "cnn", "width": 16})
    variants["cnn, training"] = train_speed(images, World())
    table("sources of images", variants, options.rounds)

    variants = {"no work": consumer(Feed(sources["no work"]))}
    for name, keys in AUGMENTATIONS.items():
        augment = Augment(load(None, dict(keys)).augmentation, 10, 0) if keys else None
        variants[name] = consumer(Feed(memory, augment))
    variants["cnn, training"] = train_speed(images, World())
    table("augmentations, in memory", variants, options.rounds)


def measure_texts(options: argparse.Namespace) -> None:
    words = {"model": "bag", "max_tokens": 64}
    memory = split_of(dataset=f"synthetic-text:examples={MOST_EXAMPLES}", **words)
    sources = {"no work": NoWork(memory), "synthetic, in memory": memory}
    trained = {"dataset": "synthetic-text", **words}
    if options.tfds_dir:
        trained = {"dataset": "clinc150", "data_dir": str(options.tfds_dir), **words}
        sources["CLINC150, in memory"] = split_of(**trained)
        sources["CLINC150 TFRecord, streamed"] = split_of(**trained, hold="stream")
    variants = {name: consumer(Feed(split)) for name, split in sources.items()}
    variants["bag, training"] = train_speed(load(None, trained), World())
    table("sources of texts", variants, options.rounds)


if __name__ == "__main__":
    main()
