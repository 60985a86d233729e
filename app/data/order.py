"""Which example goes to which rank at which step. Pure NumPy; the whole guarantee is here.

An epoch is a permutation of the dataset given by (seed, epoch). What is still to do is cut into
global batches, and each global batch is dealt round-robin to the ranks (and to the passes of an
accumulated step). So a global batch holds the same examples at every world size, every example
comes exactly once, all ranks take the same number of steps, and shares differ by at most one.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np


def epoch_permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation of range(examples), int64, equal on all ranks."""
    # Raw bits keep their stream from one NumPy to the next; Generator.permutation may not (NEP 19).
    return np.argsort(np.random.PCG64([seed, epoch]).random_raw(examples), kind="stable")


@dataclasses.dataclass(frozen=True)
class Share:
    """One rank's part of one pass.

    `indices` int64 (own examples,) may be empty; `global_indices` are those of all ranks in this
    pass; `last_pass` says that the optimizer updates after it.
    """

    indices: np.ndarray
    global_indices: np.ndarray
    last_pass: bool


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """The rest of an epoch, for every rank.

    Args:
        order: the epoch's permutation, int64 (examples,).
        global_batch_size: examples of all ranks and all passes in one optimizer step.
        world_size: ranks that share each batch.
        passes_per_step: a step's batch is dealt to so many passes, one after another.
        examples_seen: how many examples, from the front of `order`, are done already.
    """

    order: np.ndarray
    global_batch_size: int
    world_size: int
    passes_per_step: int = 1
    examples_seen: int = 0

    def __post_init__(self):
        if min(self.global_batch_size, self.world_size, self.passes_per_step) < 1:
            raise ValueError(f"batch, world and passes must be at least 1: {self}")
        if not 0 <= self.examples_seen <= len(self.order):
            raise ValueError(f"examples_seen={self.examples_seen} of {len(self.order)}")

    @property
    def steps(self) -> int:
        """Optimizer steps to do; the last one may have a short batch."""
        return -(-(len(self.order) - self.examples_seen) // self.global_batch_size)

    def shares(self, rank: int) -> Iterator[Share]:
        """What `rank` does, pass by pass: `steps * passes_per_step` shares."""
        for step in range(self.steps):
            start = self.examples_seen + step * self.global_batch_size
            batch = self.order[start : start + self.global_batch_size]
            for number in range(self.passes_per_step):
                part = batch[number :: self.passes_per_step]
                yield Share(part[rank :: self.world_size], part, number == self.passes_per_step - 1)


def evaluation_indices(examples: int, rank: int, world_size: int) -> np.ndarray:
    """The examples that `rank` evaluates: every `world_size`-th, in the order of the dataset."""
    return np.arange(rank, examples, world_size)
