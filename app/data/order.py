"""Which example goes to which rank at which step. Pure NumPy; the whole guarantee is here.

An epoch is an order of the dataset given by (seed, epoch). What is still to do is cut into global
batches, and each global batch is dealt to the ranks (and round-robin to the passes of an
accumulated step). So a global batch holds the same examples at every world size, every example
comes exactly once (but for balanced sampling), and all ranks take the same number of steps.

An order is computed where it is asked for, and never kept: an epoch of any length begins at once.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import numpy as np

from app.data.bijection import Bijections

# Examples that a stream shuffles together at least: whole files, read near to each other in time.
WINDOW_EXAMPLES = 16_384
# Places of an order that are computed in one go: some 0.3 ms, and 40 ns for each.
PLACES_AT_ONCE = 8192


class Order(Protocol):
    """The order of an epoch: the example at each place. A NumPy array int64 (n,) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """The examples at the places, both int64 (m,)."""
        ...


def _keys(number: int, *seeds: int) -> np.ndarray:
    """Random uint64 (number,) that the seeds decide."""
    # Raw bits keep their stream from one NumPy to the next; what Generator makes of them may not
    # (NEP 19).
    return np.random.PCG64(seeds).random_raw(number)


class Shuffled:
    """All of range(examples), each once, wholly shuffled; equal on all ranks."""

    def __init__(self, examples: int, seed: int, epoch: int):
        self._examples = examples
        self._shuffle = Bijections(np.array([examples]), _keys(1, seed, epoch))

    def __len__(self) -> int:
        return self._examples

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        return self._shuffle(places)


class Groups:
    """The examples of each class, or of each file: made once for a run.

    Takes 8 bytes an example, and nothing if they lie in the order of their groups, as those of
    files do. `of`: the group of each example, int (n,), 0 or more; `sizes`: how many are in each
    group that has any, int64 (groups,).
    """

    def __init__(self, of: np.ndarray):
        counts = np.bincount(of)
        self.sizes = counts[counts > 0]
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._examples = None
        if (of[1:] < of[:-1]).any():
            # A stable sort of 16 bits is a radix sort, and takes a tenth of the time.
            small = of.astype(np.uint16) if len(counts) <= 2**16 else of
            self._examples = np.argsort(small, kind="stable")

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, group: int) -> np.ndarray:
        """The examples of a group, ascending, int64 (size,)."""
        return self.members(group, np.arange(self.sizes[group]))

    def members(self, group: int | np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The examples with these numbers in their groups, int64 (m,)."""
        places = self._starts[group] + numbers
        return places if self._examples is None else self._examples[places]


class Windowed:
    """All examples, each once, so that files of many examples are read a few at a time.

    The files come in random order; those that end within the same `window_examples` examples are
    shuffled as one, and so is a file that is larger. `files`: the examples of each file.
    """

    def __init__(
        self, files: Groups, seed: int, epoch: int, window_examples: int = WINDOW_EXAMPLES
    ):
        keys = _keys(len(files) + 1, seed, epoch)
        self._files = files
        self._order = Bijections(np.array([len(files)]), keys[:1])(np.arange(len(files)))
        sizes = files.sizes[self._order]
        self._ends = np.cumsum(sizes)
        self._file_starts = self._ends - sizes
        # Files whose ends are near share a window.
        first = np.flatnonzero(np.diff((self._ends - 1) // window_examples, prepend=-1))
        self._windows = self._file_starts[first]
        window_sizes = np.diff(np.r_[self._windows, len(self)])
        self._shuffles = Bijections(window_sizes, keys[1 : len(first) + 1])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        window = np.searchsorted(self._windows, places, side="right") - 1
        start = self._windows[window]
        shuffled = start + self._shuffles(places - start, window)
        file = np.searchsorted(self._file_starts, shuffled, side="right") - 1
        return self._files.members(self._order[file], shuffled - self._file_starts[file])


class Balanced:
    """As many draws as there are examples, every class equally often.

    The one exception to "every example once": within a class, each member comes as often as any
    other, or once more; which ones do is drawn anew each epoch. `classes`: the examples of each.
    """

    def __init__(self, classes: Groups, seed: int, epoch: int):
        self._classes, number = classes, len(classes)
        keys = _keys(number + 2, seed, epoch)
        self._together = Bijections(np.array([len(self)]), keys[:1])
        self._order = Bijections(np.array([number]), keys[1:2])(np.arange(number))
        self._members = Bijections(classes.sizes, keys[2:])

    def __len__(self) -> int:
        return int(self._classes.sizes.sum())

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        draws = self._together(places)
        of_class = self._order[draws % len(self._classes)]
        number = draws // len(self._classes) % self._classes.sizes[of_class]
        return self._classes.members(of_class, self._members(number, of_class))


def orders_of(
    labels: np.ndarray, files: np.ndarray | None, balanced: bool
) -> Callable[[int, int], Order]:
    """(seed, epoch) -> the order of that epoch: balanced, by windows of files, or wholly shuffled.

    Make it once for a run. `labels`: int (n,); `files`: the file of each example, int (n,).
    """
    if balanced:
        return functools.partial(Balanced, Groups(labels))
    if files is not None:
        return functools.partial(Windowed, Groups(files))
    return functools.partial(Shuffled, len(labels))


def owners_of(
    labels: np.ndarray,
    shard_by: Literal["label", "dirichlet"],
    world_size: int,
    seed: int,
    alpha: float = 1.0,
) -> np.ndarray:
    """The rank that trains on each example, uint16 (n,), for shards that differ on purpose.

    "label": whole classes are dealt to ranks, in a random order. "dirichlet": each class is split
    in shares drawn from Dirichlet(alpha), the smaller alpha the more uneven (Hsu et al. 2019,
    arXiv:1909.06335). Ranks then have different classes and different numbers of examples.

    Raises ValueError if a rank would have no example in "label".
    """
    classes = np.flatnonzero(np.bincount(labels))
    if shard_by == "label" and len(classes) < world_size:
        raise ValueError(f"{len(classes)} classes cannot be dealt to {world_size} ranks")
    keys = _keys(len(classes) + 1, seed, world_size, 1)
    if shard_by == "label":
        order = Bijections(np.array([len(classes)]), keys[:1])(np.arange(len(classes)))
        owner_of_class = np.zeros(labels.max() + 1, np.uint16)
        owner_of_class[classes[order]] = np.arange(len(classes)) % world_size
        return owner_of_class[labels]
    rng, groups = np.random.default_rng([seed, world_size]), Groups(labels)
    owners = np.empty(len(labels), np.uint16)
    for group, size in enumerate(groups.sizes):
        ends = (np.cumsum(rng.dirichlet(np.full(world_size, alpha)))[:-1] * size).round()
        shuffled = Bijections(np.array([size]), keys[[group + 1]])(np.arange(size))
        owners[groups[group]] = np.searchsorted(ends, shuffled, side="right")
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
        order: the epoch's order, of (examples,).
        global_batch_size: examples of all ranks and all passes in one optimizer step.
        world_size: ranks that share each batch.
        passes_per_step: how many passes, one after another, a step's batch is dealt to.
        examples_seen: how many examples, from the front of `order`, are done already.
        deal: how a pass is shared out. "round robin": every `world_size`-th example, so that
            shares differ by at most one; "neighbours": the same sizes, but each rank gets
            neighbouring rows of the dataset, and so reads few files.
        owners: the rank that each example goes to, whatever the sizes, int (examples of the
            dataset,); instead of `deal`.
    """

    order: Order
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
        size, at_once = self.global_batch_size, max(1, PLACES_AT_ONCE // self.global_batch_size)
        for start in range(self.examples_seen, len(self.order), size * at_once):
            places = np.arange(start, min(start + size * at_once, len(self.order)))
            examples = self.order[places]
            for first in range(0, len(places), size):
                step = slice(first, first + size)
                yield from self._shares_of_step(places[step], examples[step], rank)

    def _shares_of_step(
        self, places: np.ndarray, examples: np.ndarray, rank: int
    ) -> Iterator[Share]:
        for number in range(self.passes_per_step):
            part = examples[number :: self.passes_per_step]
            own = self._own(part, rank)
            positions = places[number :: self.passes_per_step][own]
            yield Share(part[own], positions, part, number == self.passes_per_step - 1)

    def _own(self, part: np.ndarray, rank: int) -> np.ndarray | slice:
        """Where in `part`, the examples of a pass, those of `rank` are."""
        if self.owners is not None:
            return np.flatnonzero(self.owners[part] == rank)
        if self.deal == "neighbours":
            return np.array_split(np.argsort(part, kind="stable"), self.world_size)[rank]
        return slice(rank, None, self.world_size)


def evaluation_indices(examples: int, rank: int, world_size: int) -> range:
    """The examples that `rank` evaluates: a run of neighbours, as long as others' or one longer."""
    share, rest = divmod(examples, world_size)
    start = rank * share + min(rank, rest)
    return range(start, start + share + (rank < rest))
