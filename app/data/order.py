"""Which example goes to which rank at which step. Pure NumPy; the whole guarantee is here.

An epoch is an order of the dataset given by (seed, epoch). What is still to do is cut into global
batches, and each global batch is dealt to the ranks (and round-robin to the passes of an
accumulated step). So a global batch holds the same examples at every world size, every example
comes exactly once (but for balanced sampling), and all ranks take the same number of steps.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np

# Examples that a stream shuffles together at least: whole files, read near to each other in time.
WINDOW_EXAMPLES = 16_384


def epoch_permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation of range(examples), int64, equal on all ranks."""
    # Raw bits keep their stream from one NumPy to the next; Generator.permutation may not (NEP 19).
    return np.argsort(np.random.PCG64([seed, epoch]).random_raw(examples), kind="stable")


def windowed_permutation(
    files: np.ndarray, seed: int, epoch: int, window_examples: int = WINDOW_EXAMPLES
) -> np.ndarray:
    """A permutation, int64 (n,), that reads files of many examples a few at a time.

    The files come in random order; those that end within the same `window_examples` examples are
    shuffled as one, and so is a file that is larger. `files`: the file of each example, int (n,).
    """
    places = np.argsort(files, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(files[places]) != 0])
    contents = np.split(places, starts[1:])
    bits = np.random.PCG64([seed, epoch])
    order = np.argsort(bits.random_raw(len(contents)), kind="stable")
    ends = np.cumsum([len(contents[number]) for number in order])
    in_order = np.concatenate([contents[number] for number in order])
    window_of_file = (ends - 1) // window_examples  # files whose ends are near share a window
    window = np.repeat(window_of_file, [len(contents[number]) for number in order])
    return in_order[np.lexsort((bits.random_raw(len(in_order)), window))]


def epoch_order(
    labels: np.ndarray, files: np.ndarray | None, balanced: bool, seed: int, epoch: int
) -> np.ndarray:
    """The order of an epoch, int64 (n,): balanced, by windows of files, or wholly shuffled."""
    if balanced:
        return balanced_order(labels, seed, epoch)
    if files is not None:
        return windowed_permutation(files, seed, epoch)
    return epoch_permutation(len(labels), seed, epoch)


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """As many draws as there are examples, int64 (n,), every class equally often.

    The one exception to "every example once": within a class, each member comes as often as any
    other, or once more; which ones do is drawn anew each epoch. `labels`: int (n,).
    """
    bits = np.random.PCG64([seed, epoch])
    classes = np.unique(labels)
    classes = classes[np.argsort(bits.random_raw(len(classes)), kind="stable")]
    draws, rest = divmod(len(labels), len(classes))
    chosen = []
    for place, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(bits.random_raw(len(members)), kind="stable")]
        chosen.append(np.resize(members, draws + (place < rest)))
    together = np.concatenate(chosen)
    return together[np.argsort(bits.random_raw(len(together)), kind="stable")]


def owners_of(
    labels: np.ndarray,
    shard_by: Literal["label", "dirichlet"],
    world_size: int,
    seed: int,
    alpha: float = 1.0,
) -> np.ndarray:
    """The rank that trains on each example, int64 (n,), for shards that differ on purpose.

    "label": whole classes are dealt to ranks, in a random order. "dirichlet": each class is split
    in shares drawn from Dirichlet(alpha), the smaller alpha the more uneven (Hsu et al. 2019,
    arXiv:1909.06335). Ranks then have different classes and different numbers of examples.

    Raises ValueError if a rank would have no example in "label".
    """
    rng = np.random.default_rng([seed, world_size])
    classes = np.unique(labels)
    if shard_by == "label" and len(classes) < world_size:
        raise ValueError(f"{len(classes)} classes cannot be dealt to {world_size} ranks")
    owners = np.empty(len(labels), np.int64)
    for place, label in enumerate(rng.permutation(classes)):
        members = rng.permutation(np.flatnonzero(labels == label))
        if shard_by == "label":
            owners[members] = place % world_size
        else:
            ends = np.cumsum(rng.dirichlet(np.full(world_size, alpha)))[:-1] * len(members)
            for rank, part in enumerate(np.split(members, ends.round().astype(int))):
                owners[part] = rank
    return owners


@dataclasses.dataclass(frozen=True)
class Share:
    """One rank's part of one pass.

    `indices` int64 (own examples,) may be empty; `positions` are their places in the order of the
    epoch; `global_indices` are those of all ranks in this pass; `last_pass` says that the
    optimizer updates after it.
    """

    indices: np.ndarray
    positions: np.ndarray
    global_indices: np.ndarray
    last_pass: bool


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """The rest of an epoch, for every rank.

    Args:
        order: the epoch's order, int64 (examples,).
        global_batch_size: examples of all ranks and all passes in one optimizer step.
        world_size: ranks that share each batch.
        passes_per_step: a step's batch is dealt to so many passes, one after another.
        examples_seen: how many examples, from the front of `order`, are done already.
        deal: how a pass is shared out. "round robin": every `world_size`-th example, so that
            shares differ by at most one; "neighbours": the same sizes, but each rank gets
            neighbouring rows of the dataset, and so reads few files.
        owners: the rank that each example goes to, whatever the sizes, int (examples of the
            dataset,); instead of `deal`.
    """

    order: np.ndarray
    global_batch_size: int
    world_size: int
    passes_per_step: int = 1
    examples_seen: int = 0
    deal: Literal["round robin", "neighbours"] = "round robin"
    owners: np.ndarray | None = None

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
            batch = np.arange(start, min(start + self.global_batch_size, len(self.order)))
            for number in range(self.passes_per_step):
                part = batch[number :: self.passes_per_step]
                own = self._own(part, rank)
                yield Share(
                    self.order[own], own, self.order[part], number == self.passes_per_step - 1
                )

    def _own(self, part: np.ndarray, rank: int) -> np.ndarray:
        """The positions in `part` that `rank` gets."""
        if self.owners is not None:
            return part[self.owners[self.order[part]] == rank]
        if self.deal == "neighbours":
            by_row = part[np.argsort(self.order[part], kind="stable")]
            return np.array_split(by_row, self.world_size)[rank]
        return part[rank :: self.world_size]


def evaluation_indices(examples: int, rank: int, world_size: int) -> np.ndarray:
    """The examples that `rank` evaluates: a run of neighbours, as long as others' or one longer."""
    return np.array_split(np.arange(examples), world_size)[rank]
