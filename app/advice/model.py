"""What a step costs: collectives as alpha + beta * bytes, and steps made of them. No TensorFlow.

A message of b bytes takes alpha + beta * b seconds between two ranks. Collectives are made of
messages as in Thakur, Rabenseifner, Gropp (2005, "Optimization of Collective Communication
Operations in MPICH", IJHPCA 19(1)) and, for the ring, Patarasuk and Yuan (2009, "Bandwidth optimal
all-reduce algorithms for clusters of workstations", JPDC 69(2)). Of n ranks, with b the bytes that
each rank hands in:

- ring allreduce: 2 (n - 1) messages of b / n, and (n - 1) / n b are added up;
- tree allreduce (recursive doubling): log2(n) messages of b, each added up;
- allgather (ring): n - 1 messages of b;
- alltoall (pairwise): n - 1 messages of b / n.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

# Of additions, where nobody has measured them: a memory that moves 3 bytes for each byte added.
REDUCE_S_PER_BYTE = 1e-10


class Line(NamedTuple):
    """alpha + beta * x, in seconds."""

    alpha: float
    beta: float

    def at(self, x: float) -> float:
        """The seconds of x bytes (or ranks)."""
        return self.alpha + self.beta * x


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> Line:
    """The line with the least sum of |relative errors|, found by reweighted least squares.

    Relative, since 64 MB would else outweigh all small sizes; absolute errors, not their squares,
    so that one slow measurement moves little. Neither alpha nor beta is below 0.
    """
    x, t = np.asarray(sizes, float), np.asarray(seconds, float)
    if len(x) == 1:
        return Line(float(t[0]), 0.0)
    errors = np.ones_like(t)
    line = Line(0.0, 0.0)
    for _ in range(30):
        root = 1 / (t * np.sqrt(np.maximum(errors, 1e-3)))
        rows = np.stack([root, root * x], axis=1)
        alpha, beta = np.linalg.lstsq(rows, root * t, rcond=None)[0]
        if beta < 0:
            alpha, beta = np.sum(root**2 * t) / np.sum(root**2), 0.0
        elif alpha < 0:
            alpha, beta = 0.0, np.sum(root**2 * t * x) / np.sum((root * x) ** 2)
        line = Line(float(alpha), float(beta))
        errors = np.abs(line.at(x) - t) / t  # type: ignore[arg-type]
    return line


class Curve:
    """Seconds between the sizes that were measured, and on from the largest as steeply as between
    the last two, or as the line if that is steeper.

    A shaped link lets short messages through at once, so no line is right everywhere. What took
    longer than a larger size counts as disturbed.
    """

    def __init__(self, line: Line, sizes: Sequence[float], seconds: Sequence[float]):
        x = np.asarray(sizes, float)
        t = np.minimum.accumulate(np.asarray(seconds, float)[::-1])[::-1]
        self._largest, self._longest = float(x[-1]), float(t[-1])
        steep = float((t[-1] - t[-2]) / (x[-1] - x[-2])) if len(x) > 1 else 0.0
        self._beyond = max(line.beta, steep)
        self._sizes, self._seconds = np.log(x), np.log(t)

    def at(self, x: float) -> float:
        """The seconds of x bytes."""
        if x > self._largest:
            return self._longest + self._beyond * (x - self._largest)
        return float(np.exp(np.interp(math.log(max(1.0, x)), self._sizes, self._seconds)))


class Network(Protocol):
    """Some ranks, and what collectives between them cost."""

    @property
    def ranks(self) -> int:
        """How many."""
        ...

    def seconds(self, kind: str, size: float) -> float:
        """Of a collective of `World` to which each rank hands `size` bytes."""
        ...

    def busy(self, kind: str, size: float) -> float:
        """Seconds of computing that such a collective costs a rank, where both share its cores."""
        ...

    def by_host(self) -> "tuple[Network, Network] | None":
        """(the ranks of a host, one rank of each host while the others do the same); None where
        that makes no difference, or is not known."""
        ...


@dataclasses.dataclass(frozen=True)
class Measured:
    """Ranks that were measured: for each kind of collective what it takes, and how much of that
    the computing loses (nothing, where that is not given)."""

    ranks: int
    lines: Mapping[str, Line | Curve]
    busy_lines: Mapping[str, Line] = dataclasses.field(default_factory=dict)
    parts: "tuple[Measured, Measured] | None" = None

    def seconds(self, kind: str, size: float) -> float:
        """See `Network`."""
        return 0.0 if self.ranks == 1 else self.lines[_measured_as(kind)].at(size)

    def busy(self, kind: str, size: float) -> float:
        """See `Network`."""
        line = self.busy_lines.get(_measured_as(kind))
        return 0.0 if self.ranks == 1 or line is None else line.at(size)

    def by_host(self) -> "tuple[Network, Network] | None":
        """See `Network`."""
        return self.parts


def _measured_as(kind: str) -> str:
    return "allreduce" if kind == "allmax" else kind


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Ranks that nobody has: `per_host` on each host, which share its one link to the others.

    across, local: of a message between hosts, and inside one. `algorithm`: of allreduce, "ring",
    "tree", or "best" for the faster of them, as libraries choose by size.
    """

    ranks: int
    across: Line
    local: Line
    per_host: int = 1
    algorithm: str = "best"
    reduce_s_per_byte: float = REDUCE_S_PER_BYTE

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        return -(-self.ranks // self.per_host)

    def seconds(self, kind: str, size: float) -> float:
        """See `Network`."""
        if self.ranks == 1:
            return 0.0
        if kind == "allgather":
            return (self.ranks - 1) * self._of_ring(size)
        if kind == "alltoall":
            return self._alltoall(size)
        ring, tree = self._ring(size), self._tree(size)
        return {"ring": ring, "tree": tree, "best": min(ring, tree)}[self.algorithm]

    def busy(self, kind: str, size: float) -> float:
        """See `Network`: nothing, since a network card exchanges while something else computes."""
        return 0.0

    def _of_ring(self, size: float) -> float:
        """A message to the next rank, which only one rank of a host sends to another host."""
        inside = self.local.at(size) if self.per_host > 1 else 0.0
        return max(inside, self.across.at(size)) if self.hosts > 1 else inside

    def _ring(self, size: float) -> float:
        n = self.ranks
        added = (n - 1) / n * size * self.reduce_s_per_byte
        return 2 * (n - 1) * self._of_ring(size / n) + added

    def _tree(self, size: float) -> float:
        inside = math.ceil(math.log2(min(self.per_host, self.ranks)))
        outside = math.ceil(math.log2(self.hosts))
        # All ranks of a host exchange with another host at the same time, over one link.
        across = self.across.alpha + self.across.beta * size * self.per_host
        added = (inside + outside) * size * self.reduce_s_per_byte
        return inside * self.local.at(size) + outside * across + added

    def _alltoall(self, size: float) -> float:
        piece, inside = size / self.ranks, min(self.per_host, self.ranks) - 1
        outside = self.ranks - 1 - inside
        across = self.across.alpha + self.across.beta * piece * self.per_host
        return inside * self.local.at(piece) + outside * across

    def by_host(self) -> "tuple[Network, Network] | None":
        """See `Network`."""
        if self.hosts == 1 or self.per_host == 1 or self.ranks % self.per_host:
            return None
        shared = Line(self.across.alpha, self.across.beta * self.per_host)
        return (
            dataclasses.replace(self, ranks=self.per_host, across=self.local),
            dataclasses.replace(self, ranks=self.hosts, across=shared, per_host=1),
        )


class Step(NamedTuple):
    """What a step is made of, in seconds: computing, (un)packing, exchanging; the steps of a
    round; the share of the computing that an exchange may run beside; and the computing that an
    exchange beside it costs."""

    compute: float
    codec: float
    exchange: float
    round: int
    overlap: float
    busy: float = 0.0


def _every_step(step: Step) -> float:
    return step.compute + step.codec + max(0.0, step.exchange - step.overlap * step.compute)


def _in_rounds(step: Step) -> float:
    return step.compute + (step.codec + step.exchange) / step.round


# Seconds of a step by the name of the strategy.
STEP_SECONDS: dict[str, Callable[[Step], float]] = {
    "every_step": _every_step,
    "hierarchical": lambda s: _every_step(s) if s.round == 1 else _in_rounds(s),
    "overlapped": lambda s: max(s.compute + s.codec + s.busy, s.exchange),
    "local": _in_rounds,
    "delayed": lambda s: (
        max(s.compute + s.busy / s.round, s.exchange / s.round) + s.codec / s.round
    ),
}
