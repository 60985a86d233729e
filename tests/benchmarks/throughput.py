"""Examples/s of a fixed convnet: Lockstep against no communication and against stock Horovod.

    python -m tests.benchmarks.throughput [--ranks 1 2] [--rounds 6] [--steps 200]

Network: 28x28x1; 3x3 convolutions of 32 and 64 filters, each with ReLU and 2x2 max-pooling; dense
128; 10 classes; 225,034 parameters; SGD; batch 64 per rank, batches held in memory. All variants
take turns within one process per rank, with a barrier before and after each stretch of steps, so
that a noisy machine slows all alike. A ratio is the median over rounds of (variant / no
communication in the same round).
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

BATCH = 64
VARIANTS = {
    "no communication": "the same step, nothing exchanged: the ceiling",
    "Lockstep": "DistributedOptimizer, one float32 bucket",
    "Lockstep fp16": "the same with compression='fp16'",
    "stock Horovod": "hvd.DistributedOptimizer as published: does NOT synchronise on Keras 3",
}


def network():
    import keras

    return keras.Sequential(
        [
            keras.layers.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def make_step(variant: str, world):
    """A function that takes one training step on a batch."""
    import keras
    import tensorflow as tf

    from app.classifier import Classifier
    from app.distributed.optimizer import DistributedOptimizer
    from app.distributed.world import World

    sgd = keras.optimizers.SGD(0.01)
    if variant == "stock Horovod":
        if world.size > 1:
            import horovod.tensorflow.keras as stock

            sgd = stock.DistributedOptimizer(sgd)
        model = network()

        def stock_step(batch):
            with tf.GradientTape() as tape:
                logits = model(batch.inputs, training=True)
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(batch.labels, logits)
                )
            gradients = tape.gradient(loss, model.trainable_variables)
            sgd.apply(gradients, model.trainable_variables)
            return loss

        sgd.build(model.trainable_variables)
        return tf.function(stock_step, autograph=False)
    classifier = Classifier(network())
    classifier.compile(
        DistributedOptimizer(
            sgd,
            world=World() if variant == "no communication" else world,
            compression="fp16" if variant == "Lockstep fp16" else "none",
        )
    )
    classifier.optimizer.build(classifier.trainable_variables)
    return tf.function(classifier.train_step, autograph=False)


def measure(rounds: int, steps: int) -> None:
    """On every rank: take turns, and let the chief print examples/s of all ranks together."""
    import numpy as np
    import tensorflow as tf

    from app.data.batches import Batch
    from app.distributed import connect, devices

    world = connect()
    devices.configure(world)
    rng = np.random.default_rng(world.rank)
    total = tf.constant(BATCH * world.size, tf.int64)
    batches = [
        Batch(
            tf.constant(rng.normal(size=(BATCH, 28, 28, 1)), tf.float32),
            tf.constant(rng.integers(0, 10, BATCH)),
            total,
        )
        for _ in range(8)
    ]
    functions = {variant: make_step(variant, world) for variant in VARIANTS}
    rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(rounds + 1):  # the first round compiles and warms up
        for variant, step in functions.items():
            world.barrier()
            began = time.perf_counter()
            for index in range(steps):
                result = step(batches[index % len(batches)])
            tf.nest.map_structure(lambda value: value.numpy(), result)
            world.barrier()
            if number:
                seconds = time.perf_counter() - began
                rates[variant].append(steps * BATCH * world.size / seconds)
    if world.is_chief:
        report(world.size, world.backend, rates)


def report(ranks: int, backend: str, rates: dict[str, list[float]]) -> None:
    ceiling = rates["no communication"]
    print(f"\n{ranks} rank(s), {backend}, {len(ceiling)} rounds, batch {BATCH} per rank")
    for variant, values in rates.items():
        ratios = [value / best for value, best in zip(values, ceiling, strict=True)]
        print(
            f"  {variant:17} {statistics.median(values):8,.0f} examples/s "
            f"({min(values):,.0f} to {max(values):,.0f})  "
            f"{statistics.median(ratios):4.0%} of no communication   {VARIANTS[variant]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--transport", choices=["gloo", "mpi"], default="gloo")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.rounds, options.steps)
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for ranks in options.ranks:
        command = [sys.executable, "-m", "tests.benchmarks.throughput", "--measure"]
        command += ["--rounds", str(options.rounds), "--steps", str(options.steps)]
        if ranks > 1:
            horovodrun = str(Path(sys.executable).parent / "horovodrun")
            command = [horovodrun, "-np", str(ranks), f"--{options.transport}", *command]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
