"""What keeping checkpoints in the background costs: python -m tests.benchmarks.checkpoints

For states of some sizes, how long training is blocked by a snapshot, next to a plain NumPy copy of
the same bytes, in turns; how long the thread then writes; and how much slower steps are meanwhile.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any


def build(megabytes: int) -> Any:
    """The state of a model of dense layers with Adam, whose arrays have about so many bytes."""
    import keras

    from app.classifier import Classifier
    from app.distributed.optimizer import DistributedOptimizer
    from app.distributed.world import World
    from app.state import TrainState

    width, layers = 1024, max(1, round(megabytes / 12.6))  # 4.2 MB each, and twice that in Adam
    inputs = x = keras.Input((width,), name="inputs")
    for number in range(layers):
        x = keras.layers.Dense(width, activation="relu", name=f"dense_{number}")(x)
    logits = keras.layers.Dense(10, name="logits")(x)
    classifier = Classifier(keras.Model(inputs, logits, name="network"))
    adam = keras.optimizers.Adam(1e-4, name="adam")
    optimizer = DistributedOptimizer(adam, world=World(), name="distributed")
    classifier.compile(optimizer)
    optimizer.build(classifier.trainable_variables)
    return TrainState(classifier, optimizer, seed=0)


def timed(do: Any) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def measure(megabytes: int, rounds: int, directory: Path) -> list[str]:
    """A row of the table."""
    import numpy as np
    import tensorflow as tf

    from app.checkpoints.keeper import Keeper
    from app.checkpoints.snapshot import take
    from app.config import Run

    state = build(megabytes)
    random = np.random.default_rng(0)
    inputs, labels = random.normal(size=(64, 1024)).astype(np.float32), random.integers(0, 10, 64)
    batch = (tf.constant(inputs), tf.constant(labels))
    step_of = tf.function(state.model.train_step, autograph=False)

    def step() -> float:
        return timed(lambda: step_of(batch)["loss"].numpy())

    for _ in range(5):
        step()
    kept = Keeper(directory, Run())
    taken, plain, blocked, quiet, busy, writes = [], [], [], [], [], []
    arrays = list(take(state, {}).arrays.values())
    for _ in range(rounds):
        taken.append(timed(lambda: take(state, {})))
        plain.append(timed(lambda: [array.copy() for array in arrays]))
    for state.step in range(1, rounds + 1):
        quiet += [step() for _ in range(10)]
        blocked.append(kept.keep(state, {}, epoch_ends=True))
        while not (written := kept.written()):
            busy.append(step())
        writes += [one.seconds for one in written]
    kept.wait()
    size = written[0].bytes / 1e6
    slower = statistics.median(busy) / statistics.median(quiet)
    block, write = map(statistics.median, (blocked, writes))
    over_copy = statistics.median(taken) / statistics.median(plain)
    minute = (block + write * max(0.0, 1 - 1 / slower)) / 60
    return [
        f"{size:.0f}",
        f"{1e3 * block:.0f} ({1e3 * max(blocked):.0f})",
        f"{1e5 * block / size:.0f}",
        f"{over_copy:.2f}",
        f"{write:.2f}",
        f"{1e3 * statistics.median(quiet):.0f}",
        f"{slower:.2f}",
        f"{block / 60:.3%}",
        f"{minute:.2%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[13, 100, 400])
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; medians of {options.rounds}, the largest in brackets")
    print(
        "| MB | blocked, ms | ms per 100 MB | over a copy | written in, s | step, ms | "
        "slower while written | blocked at one a minute | with slower steps |"
    )
    print("|" + " --- |" * 9)
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory() as directory:
            row = measure(megabytes, options.rounds, Path(directory))
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
