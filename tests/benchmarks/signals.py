"""Seconds per step, side by side with another copy of this repository, in the same processes.

    horovodrun -np 2 --gloo python tests/benchmarks/signals.py OTHER [--rounds 5] [--steps 40]

OTHER is the root of the other copy, such as `git worktree add OTHER COMMIT` makes. Both are
imported, and take turns in stretches of steps with a barrier at each end, so that a noisy machine
slows both alike; a ratio is the median over rounds of (this copy / the other one). Networks: the
convnet of `throughput.py`, batch 64 per rank (225,034 parameters), and dense layers of 10,020,874
parameters, batch 32; SGD with momentum. The first round compiles and is not counted.
"""

import argparse
import importlib
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
KINDS = {"convnet": ((28, 28, 1), 64), "large": ((784,), 32)}


def make_steps(root: Path) -> tuple:
    """(the world, for each kind of network a function of no arguments that takes a step), of the
    copy at `root`."""
    import keras
    import numpy as np
    import tensorflow as tf

    for name in [name for name in sys.modules if name.split(".")[0] in ("app", "tests")]:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    classifier_of = importlib.import_module("app.classifier").Classifier
    batch_of = importlib.import_module("app.data.batches").Batch
    distributed = importlib.import_module("app.distributed")
    optimizer_of = importlib.import_module("app.distributed.optimizer").DistributedOptimizer
    small = importlib.import_module("tests.benchmarks.throughput").network
    world = distributed.connect()
    importlib.import_module("app.distributed.devices").configure(world)
    del sys.path[0]
    random, steps = np.random.default_rng(world.rank), {}
    for kind, (shape, rows) in KINDS.items():
        hidden = [keras.layers.Dense(2048, activation="relu") for _ in range(3)]
        dense = [keras.layers.Input(shape), *hidden, keras.layers.Dense(10)]
        classifier = classifier_of(small() if kind == "convnet" else keras.Sequential(dense))
        sgd = keras.optimizers.SGD(0.01, momentum=0.9)
        classifier.compile(optimizer_of(sgd, world=world))
        classifier.optimizer.build(classifier.trainable_variables)
        batch = batch_of(
            tf.constant(random.normal(size=(rows, *shape)), tf.float32),
            tf.constant(random.integers(0, 10, rows)),
            tf.constant(rows * world.size, tf.int64),
        )
        step = tf.function(classifier.train_step, autograph=False)
        steps[kind] = lambda step=step, batch=batch: step(batch)
    return world, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    world, there = make_steps(args.other.resolve())
    _, here = make_steps(HERE)
    for kind in KINDS:
        times: dict[str, list[float]] = {"here": [], "there": []}
        for number in range(args.rounds + 1):
            for name, step in (("here", here[kind]), ("there", there[kind])):
                world.barrier()
                began = time.perf_counter()
                for _ in range(args.steps):
                    logs = step()
                float(logs["loss"])
                world.barrier()
                if number:
                    times[name].append((time.perf_counter() - began) / args.steps * 1e3)
        ratios = [a / b for a, b in zip(times["here"], times["there"], strict=True)]
        if world.is_chief:
            print(
                f"{kind}, {world.size} ranks: {statistics.median(times['here']):.2f} ms per step "
                f"here, {statistics.median(times['there']):.2f} ms there; ratio "
                f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
