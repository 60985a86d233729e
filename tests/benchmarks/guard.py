"""What a comparison of the replicas costs, next to the steps between two of them.

    python -m tests.benchmarks.guard [MB]
    horovodrun -np 2 --gloo python -m tests.benchmarks.guard [MB]

Trains fully connected layers with Adam, which have MB megabytes of variables (default 100), on
random batches of 64 examples per rank. The checksums as they are, and as CRC-32 of copies on the
host, take turns; prints medians, and the share of the time at the default distance.
"""

import statistics
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

WIDTH, BATCH, ROUNDS, STEPS = 1024, 64, 9, 3


def main(megabytes: float = 100.0) -> None:
    import keras
    import numpy as np
    import tensorflow as tf

    from app.config import Config
    from app.distributed import DistributedOptimizer, guard
    from app.distributed.devices import connect_configured
    from app.distributed.fingerprints import fingerprints
    from app.state import Kind, state_variables

    world = connect_configured()
    keras.utils.set_random_seed(1)
    layers = max(1, round(megabytes * 1e6 / (3 * 4 * WIDTH * (WIDTH + 1))))  # Adam holds 2 more
    model = keras.Sequential(
        [keras.layers.Input((WIDTH,)), *(keras.layers.Dense(WIDTH) for _ in range(layers))]
    )
    model.compile(DistributedOptimizer(keras.optimizers.Adam(1e-4)), "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    batch = np.random.default_rng(world.rank).normal(size=(BATCH, WIDTH)).astype(np.float32)
    data = tf.data.Dataset.from_tensors((batch, batch)).repeat()

    def crc() -> Any:
        entries = state_variables(model, model.optimizer)
        return [zlib.crc32(np.ascontiguousarray(entry.variable.numpy()).data) for entry in entries]

    def sums() -> Any:
        return fingerprints([e.variable for e in state_variables(model, model.optimizer)])

    ways: dict[str, Callable[[], Any]] = {
        "a step": lambda: model.fit(data, steps_per_epoch=STEPS, verbose=0),
        "CRC-32": crc,
        "checksums": sums,
        "compare": lambda: guard.compare(world, model, model.optimizer, 0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            world.barrier()
            began = time.perf_counter()
            way()
            seconds[name].append((time.perf_counter() - began) / (STEPS if name == "a step" else 1))
    if not world.is_chief:
        return
    entries = [e for e in state_variables(model, model.optimizer) if e.kind is Kind.REPLICATED]
    size = sum(e.variable.value.dtype.size * int(np.prod(e.variable.shape)) for e in entries)
    print(f"{world.size} rank(s), {size / 1e6:.0f} MB in {len(entries)} variables")
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, median in medians.items():
        first, *others = seconds[name]
        least = 1e3 * min(others)
        print(f"  {name:9} {1e3 * median:7.1f} ms ({least:.1f} at least; the first {first:.1f} s)")
    every = Config().distribution.guard_every_steps
    print(f"  {medians['compare'] / (every * medians['a step']):.2%} of {every} steps")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
