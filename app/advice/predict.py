"""What every way to communicate should cost for one model on one network."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.advice.model import STEP_SECONDS, Line, Network, Step
from app.distributed.reducers import WITH_RESIDUALS
from app.distributed.reducers.by_host import shape_of_piece
from app.distributed.strategies import STRATEGIES, WITH_ROUNDS

HIERARCHICAL = "hierarchical"
# Strategies that exchange at every step, or in rounds if asked to.
EITHER_WAY = (HIERARCHICAL,)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model, and what it takes to compute and to compress its gradients.

    shapes: of its trainable variables; compute_s: of a step without exchange, on the slowest rank;
    reducers: by compression, each with `collectives`; codecs: the seconds of each beside sending
    nothing, by the number of ranks; most_ranks: of those compressions that have a limit; round:
    steps of a round; overlap: the share of `compute_s` that an exchange may run beside; joint:
    whether ranks normalise together (sync_batch_norm), so that there can be no rounds; waits_s: by
    the number of steps after which ranks wait for each other, the seconds of a step that they wait
    for whichever is the slowest just then (nothing, where that is not given).
    """

    shapes: Sequence[tuple[int, ...]]
    compute_s: float
    reducers: Mapping[str, Any]
    codecs: Mapping[str, Line]
    most_ranks: Mapping[str, int]
    round: int = 8
    overlap: float = 0.0
    joint: bool = False
    waits_s: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """The number of elements of a gradient."""
        return sum(math.prod(shape) for shape in self.shapes)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One way to communicate.

    step_s: of a step, inf where it is not possible, for the reason in `refused`; codec_s,
    exchange_s: of one exchange, and sent_bytes: what a rank hands to its collectives, per step.
    """

    compression: str
    sync: str
    round: int
    step_s: float
    compute_s: float
    codec_s: float = 0.0
    exchange_s: float = 0.0
    sent_bytes: float = 0.0
    refused: str = ""

    @property
    def efficiency(self) -> float:
        """The share of a step that computes."""
        return self.compute_s / self.step_s

    @property
    def label(self) -> str:
        """What people call it."""
        rounds = f" every {self.round} steps" if self.round > 1 else ""
        return f"{self.compression}, {self.sync}{rounds}"


def predict(
    work: Workload, network: Network, compression: str, sync: str, steps: int = 1
) -> Prediction:
    """The cost of one way to communicate; `steps`: of a round."""
    parts = network.by_host() if sync == HIERARCHICAL else None
    ranks = parts[1].ranks if parts else network.ranks
    if why := _why_not(work, compression, sync, steps, ranks, parts is not None):
        return Prediction(compression, sync, steps, math.inf, work.compute_s, refused=why)
    reducer, compute = work.reducers[compression], work.compute_s + work.waits_s.get(steps, 0.0)
    if parts is None:
        calls = [(network, one.kind, one.bytes) for one in reducer.collectives(work.shapes, ranks)]
        codec = work.codecs[compression].at(ranks)
    else:
        calls, codec = _by_host(work, reducer, *parts), work.codecs[compression].at(ranks)
        codec /= parts[0].ranks  # each rank of a host has a piece of the model
        if steps > 1:  # the step that a host takes by itself
            compute += parts[0].seconds("allreduce", 4 * work.parameters)
    exchange = sum(where.seconds(kind, size) for where, kind, size in calls)
    busy = min(exchange, sum(where.busy(kind, size) for where, kind, size in calls))
    step = Step(compute, codec, exchange, steps, work.overlap, busy)
    sent = sum(size for _, _, size in calls) / steps
    return Prediction(
        compression,
        sync,
        steps,
        STEP_SECONDS[sync](step),
        work.compute_s,
        codec,
        exchange,
        sent,
    )


def _why_not(
    work: Workload, compression: str, sync: str, steps: int, ranks: int, has_hosts: bool
) -> str:
    """Why this is not possible; "" if it is."""
    if sync == HIERARCHICAL and not has_hosts:
        return "needs several hosts, and as many ranks (more than one) on each"
    if sync == HIERARCHICAL and compression in WITH_RESIDUALS:
        return "not with hierarchical, since it keeps residuals"
    if work.joint and steps > 1:
        return "not with sync_batch_norm"
    most = work.most_ranks.get(compression)
    return f"at most {most} ranks" if most and ranks > most else ""


def _by_host(
    work: Workload, reducer: Any, inside: Network, between: Network
) -> list[tuple[Network, str, float]]:
    """The collectives of sync 'hierarchical' (see `ByHost`), and where each is."""
    pieces = [tuple(shape_of_piece(shape, inside.ranks)) for shape in work.shapes]
    piece_bytes = 4 * sum(math.prod(piece) for piece in pieces)
    across = reducer.collectives(pieces, between.ranks)
    return [
        (inside, "alltoall", inside.ranks * piece_bytes),
        *((between, one.kind, one.bytes) for one in across),
        (inside, "allgather", piece_bytes),
    ]


def predict_all(work: Workload, network: Network) -> list[Prediction]:
    """Every compression with every strategy, in the order of their names' tables, and those that
    can do both at every step and in rounds."""
    ways = [
        (sync, steps)
        for sync in STRATEGIES
        for steps in dict.fromkeys((1, work.round))
        if sync in EITHER_WAY or (sync in WITH_ROUNDS) == (steps > 1)
    ]
    return [
        predict(work, network, compression, sync, steps)
        for compression in work.reducers
        for sync, steps in ways
    ]
