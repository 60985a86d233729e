"""Several labels of an example: the heads of a network that learn one each, and how labels lie in
arrays.

With one label, labels are int64 (n,). With several they are int64 (n, heads), where `MISSING` says
that an example lacks the label of a head. Everything that needs one label of an example, such as
stratifying, balancing and sharding, goes by the first.
"""

from typing import NamedTuple

import numpy as np

MISSING = -1
ONLY = "label"  # what the head of a run with one label is called, where a name is needed


class Head(NamedTuple):
    """What one label says: its name, and the name of class i."""

    name: str
    class_names: tuple[str, ...]


def by_head(labels: np.ndarray) -> np.ndarray:
    """Labels (n,) or (n, heads) as (n, heads)."""
    return labels[:, None] if labels.ndim == 1 else labels


def first(labels: np.ndarray) -> np.ndarray:
    """The first label of each example, int64 (n,); `MISSING` where it lacks it."""
    return by_head(labels)[:, 0]


def strata(labels: np.ndarray) -> np.ndarray:
    """The first label of each example, int64 (n,), 0 or more: those that lack it are a group of
    their own, after all others."""
    leading = first(labels)
    return np.where(leading == MISSING, leading.max(initial=0) + 1, leading)


def labelled(labels: np.ndarray) -> np.ndarray:
    """How many of the examples have the label of each head, int64 (heads,)."""
    return (by_head(labels) != MISSING).sum(axis=0, dtype=np.int64)
