"""Bandwidths and times as people write them, and back. Loads no TensorFlow."""

import argparse
import re
from collections.abc import Callable

PREFIXES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
NUMBER = r"(\d+\.?\d*|\.\d+)\s*"
BANDWIDTH = re.compile(NUMBER + r"([kmgtKMGT]?)(bits?|[bB]ytes?|bps|b|B)(?:/s|ps)?")
TIME = re.compile(NUMBER + r"(s|ms|us|µs|ns)")


def bandwidth(given: str) -> float:
    """Bytes per second of "25Gbit", "200 mbit/s", "10Gbps", "3.1GB/s": b is a bit, B a byte.

    Raises ValueError for anything else, and for 0.
    """
    found = BANDWIDTH.fullmatch(given.strip().replace("BIT", "bit").replace("Bit", "bit"))
    if not found or not float(found[1]):
        raise ValueError(
            f"expected a bandwidth such as 25Gbit, 200Mbit/s or 3.1GB/s, got '{given}'"
        )
    in_bytes = found[3] == "B" or found[3].lower().startswith("byte")
    return float(found[1]) * PREFIXES[found[2].lower()] / (1 if in_bytes else 8)


def duration(given: str) -> float:
    """Seconds of "20us", "0.5 ms", "1s". Raises ValueError for anything else."""
    found = TIME.fullmatch(given.strip())
    if not found:
        raise ValueError(f"expected a time such as 20us, 0.5ms or 1s, got '{given}'")
    return float(found[1]) * SECONDS[found[2]]


def option(read: Callable[[str], float]) -> Callable[[str], float]:
    """The `type` of an option that is read by one of the above."""

    def convert(given: str) -> float:
        try:
            return read(given)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def positive(given: str) -> float:
    """A number above 0. Raises ValueError for anything else."""
    try:
        number = float(given)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"expected a number above 0, got '{given}'")
    return number


def share(given: str) -> float:
    """A number from 0 to 1. Raises ValueError for anything else."""
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"expected a number from 0 to 1, got '{given}'")
    return number


def size_text(number: float) -> str:
    """Bytes for people: "4.1 KB" (10^3)."""
    for name, unit in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"


def ms_text(seconds: float) -> str:
    """Milliseconds with three digits."""
    ms = 1e3 * seconds
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"
