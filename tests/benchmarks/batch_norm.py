"""What a BatchNorm of all ranks costs, and what one in a single kernel saves: training steps.

    python -m tests.benchmarks.batch_norm [--ranks 2] [--rounds 6] [--steps 20] [--batch 32]
        [--model resnet20] [--width N] [--precision float32]

Images of 32x32x3, batches held in memory. The networks take turns within one process per rank,
with a barrier before and after each stretch of steps. Prints milliseconds of a step: the median
over rounds, the range, and the median over rounds of the ratio to Keras' layer in the same round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

KERAS, FUSED, JOINT = "each rank, Keras' layer", "each rank", "all ranks"


def make_step(variant: str, options: argparse.Namespace, world: Any) -> Any:
    """A function that takes one training step on a batch."""
    import keras
    import tensorflow as tf

    import models
    from app.classifier import Classifier
    from app.distributed import DistributedOptimizer, synchronised

    network = models.build_image_model(options.model, (32, 32, 3), 10, width=options.width)
    if variant == JOINT:
        network = synchronised(network, world)
    elif variant == KERAS:
        network = keras.models.clone_model(network, clone_function=of_keras)
    classifier = Classifier(network)
    classifier.compile(DistributedOptimizer(keras.optimizers.SGD(0.01), world=world))
    classifier.optimizer.build(classifier.trainable_variables)
    return tf.function(classifier.train_step, autograph=False)


def of_keras(layer: Any) -> Any:
    """The same layer, but BatchNorm as Keras composes it."""
    import keras

    is_norm = isinstance(layer, keras.layers.BatchNormalization)
    kind = keras.layers.BatchNormalization if is_norm else type(layer)
    return kind.from_config(layer.get_config())


def measure(options: argparse.Namespace) -> None:
    """On every rank: take turns; the chief prints."""
    import keras
    import numpy as np
    import tensorflow as tf

    from app.data.batches import Batch
    from app.distributed import connect, devices

    world = connect()
    devices.configure(world)
    keras.config.set_dtype_policy(options.precision)
    rounds, rows = options.rounds, options.batch
    rng = np.random.default_rng(world.rank)
    total = tf.constant(rows * world.size, tf.int64)
    pixels = tf.constant(rng.integers(0, 256, (rows, 32, 32, 3)), tf.uint8)
    labels = tf.constant(rng.integers(0, 10, rows))
    batch = Batch(pixels, labels, total, counts=total[None])
    functions = {variant: make_step(variant, options, world) for variant in (KERAS, FUSED, JOINT)}
    took: dict[str, list[float]] = {variant: [] for variant in functions}
    for number in range(rounds + 1):  # the first round compiles and warms up
        for variant, step in functions.items():
            world.barrier()
            began = time.perf_counter()
            for _ in range(options.steps):
                result = step(batch)
            tf.nest.map_structure(lambda value: value.numpy(), result)
            world.barrier()
            if number:
                took[variant].append(1e3 * (time.perf_counter() - began) / options.steps)
    if world.is_chief:
        print(f"\n{world.size} rank(s), {world.backend}, {rounds} rounds, batch {rows} per rank")
        for variant, times in took.items():
            middle, least, most = statistics.median(times), min(times), max(times)
            ratio = statistics.median(a / b for a, b in zip(times, took[KERAS], strict=True))
            print(
                f"  BatchNorm of {variant}: {middle:.1f} ms a step ({least:.1f} to {most:.1f}), "
                f"{ratio:.2f} of Keras'"
            )


def main() -> None:
    """Start ranks that measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--width", type=int, default=None)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options)
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command = [sys.executable, "-m", "tests.benchmarks.batch_norm", "--measure", *sys.argv[1:]]
    if options.ranks > 1:
        horovodrun = str(Path(sys.executable).parent / "horovodrun")
        command = [horovodrun, "-np", str(options.ranks), "--gloo", *command]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
