"""How far float16 sums over N ranks are from exact ones: python -m tests.benchmarks.half_sums

Relative errors in the norm of a correctly scaled bucket, in NumPy: from casting the shares alone,
from a ring that adds in float16 (as Horovod, MPI and NCCL do), and from adding in float32 and
casting the sum (app/distributed/reducers/half.py).
"""

import argparse

import numpy as np

TARGET = 2.0**11  # what app/distributed/reducers/half.py brings the largest sum to, at least


def errors(ranks: int, elements: int, equal: bool) -> tuple[float, float, float]:
    """(casting alone, a ring of float16, sums in float32), each over the norm of the exact sum."""
    random = np.random.default_rng(ranks)
    own = random.normal(size=elements)
    shares = [own if equal else random.normal(size=elements) for _ in range(ranks)]
    total = np.sum(shares, axis=0)
    scale = TARGET / np.abs(total).max()
    exact = np.zeros(elements)
    ring = np.zeros(elements, np.float16)
    single = np.zeros(elements, np.float32)
    for share in shares:
        half = (share * scale).astype(np.float16)
        exact += half
        ring += half
        single += half
    total *= scale
    found = (exact, ring.astype(float), single.astype(np.float16).astype(float))
    first, second, third = (float(np.linalg.norm(f - total) / np.linalg.norm(total)) for f in found)
    return first, second, third


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=20_000)
    elements = parser.parse_args().elements
    print("| ranks | gradients | cast | ring of float16 | sum in float32 |")
    print("| --- | --- | --- | --- | --- |")
    for ranks in (2, 4, 8, 16, 64, 256, 1024):
        for equal in (True, False):
            row = " | ".join(f"{2**10 * error:.3f}" for error in errors(ranks, elements, equal))
            print(f"| {ranks} | {'equal' if equal else 'unlike'} | {row} |")
    print("in units of 2^-10 of the norm of the sum")


if __name__ == "__main__":
    main()
