"""Temperature scaling: how sure a classifier should be, found on examples that it did not learn
from, and kept with the run.

Guo et al. 2017, arXiv:1706.04599: logits are divided by one number, the temperature, for which the
cross-entropy is least. The most probable class stays what it is. Pure NumPy.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from app.data.heads import Head
from app.errors import UserError

LOG = logging.getLogger(__name__)
LEAST, MOST = 0.01, 100.0
MOST_STEPS, PRECISION = 60, 1e-10  # of the logarithm of the temperature
Sum = Callable[[np.ndarray], np.ndarray]


def fit_temperature(
    logits: np.ndarray, labels: np.ndarray, total: Sum = lambda own: own
) -> float | None:
    """The temperature with the least cross-entropy, between LEAST and MOST; None if there is none,
    as where all examples are right (the surer the better), or no more than by chance.

    Args:
        logits: float (n, classes), finite.
        labels: int (n,), 0 or more.
        total: the sum over ranks that have a part of the examples each, the same on all; it is
            called equally often by all.
    """
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    own = wide[np.arange(len(labels)), labels]

    def slopes(log_inverse: float) -> tuple[float, float]:
        """First and second derivative of the loss, summed, by the inverse of the temperature."""
        shares = np.exp(wide * np.exp(log_inverse))
        shares /= shares.sum(axis=1, keepdims=True)
        mean = (shares * wide).sum(axis=1)
        variance = (shares * wide**2).sum(axis=1) - mean**2
        first, second = total(np.array([(mean - own).sum(), variance.sum()]))
        return float(first), float(second)

    # The loss is convex in the inverse, so its slope rises through 0 at most once.
    low, high, point = -np.log(MOST), -np.log(LEAST), 0.0
    if slopes(low)[0] >= 0 or slopes(high)[0] <= 0:
        return None
    for _ in range(MOST_STEPS):
        first, second = slopes(point)
        low, high = (low, point) if first > 0 else (point, high)
        # Newton's step, or half the interval where that leads outside.
        by_point = second * np.exp(point)
        following = point - first / by_point if by_point > 0 else np.inf
        if not low < following < high:
            following = (low + high) / 2
        is_near = abs(following - point) < PRECISION
        point = following
        if is_near:
            break
    return float(np.exp(-point))


def scaled(logits: np.ndarray, temperature: float | None) -> np.ndarray:
    """Calibrated logits; the same array if there is no temperature."""
    return logits if temperature is None else logits.astype(np.float64) / temperature


def read_temperatures(file: Path, weights: str, heads: Sequence[Head]) -> dict[str, float]:
    """What `calibrate` has kept: the temperature of each label by its name; empty if there is no
    file, or, with a warning, if it is of other `weights` (SHA-256).

    Raises UserError if it cannot be read.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        temperatures = {head.name: float(found["temperatures"][head.name]) for head in heads}
        is_same = found["weights"] == weights
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({error!r}): remove it, and calibrate the run again"
        ) from None
    if not is_same:
        LOG.warning("%s is of other weights, so it is not used: calibrate the run again", file)
        return {}
    return temperatures
