"""Seconds until an epoch begins, and per batch, by number of examples and kind of order.

    python -m tests.benchmarks.order [--most 1e8]

"once": what a run prepares once; "epoch": from the end of one epoch to the first batch of the next;
"batch": each further batch of 256 on one of 8 ranks, in microseconds; "kept": memory that stays in
use, besides the labels and the file of each example. 1,000 classes, files of 2,000 examples.
"""

import argparse
import itertools
import time
import tracemalloc

import numpy as np

from app.data.examples import stratified_split
from app.data.order import EpochPlan, orders_of, owners_of

BATCH, RANKS, BATCHES = 256, 8, 1000
CLASSES, OF_A_FILE = 1000, 2000
HEADING = "     examples  order                 once, s  epoch, s  batch, µs      kept"


def measure(examples: int, kind: str) -> None:
    labels = (np.arange(examples, dtype=np.int64) * 7919) % CLASSES
    files = np.arange(examples, dtype=np.int64) // OF_A_FILE if kind == "streamed" else None
    tracemalloc.start()
    began = time.perf_counter()
    orders = orders_of(labels, files, kind == "balanced")
    owners = owners_of(labels, "label", RANKS, 0) if kind == "sharded by label" else None
    if kind == "dirichlet shards":
        owners = owners_of(labels, "dirichlet", RANKS, 0)
    once, kept = time.perf_counter() - began, tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    deal = "neighbours" if kind == "streamed" else "round robin"
    began = time.perf_counter()
    shares = EpochPlan(orders(0, 1), BATCH, RANKS, deal=deal, owners=owners).shares(0)
    next(shares)
    epoch, began = time.perf_counter() - began, time.perf_counter()
    taken = sum(1 for _ in itertools.islice(shares, BATCHES))
    batch = (time.perf_counter() - began) / taken * 1e6
    print(
        f"{examples:13,}  {kind:20} {once:8.2f} {epoch:9.3f} {batch:10.0f} {kept / 1e6:6,.0f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--most", type=float, default=1e8, help="examples [1e8]")
    most = int(parser.parse_args().most)
    print(HEADING)
    for examples in (10**6, 10**7, 10**8):
        if examples > most:
            break
        for kind in ("shuffled", "streamed", "balanced", "sharded by label"):
            measure(examples, kind)
        if examples == 10**8:  # the others would take ten times as long
            break
        measure(examples, "dirichlet shards")
        labels = (np.arange(examples, dtype=np.int64) * 7919) % CLASSES
        began = time.perf_counter()
        stratified_split(labels, 0.1, 0)
        print(f"{examples:13,}  {'stratified split':20} {time.perf_counter() - began:8.2f}")


if __name__ == "__main__":
    main()
