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


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model, and what it takes to compute and to compress its gradients.

    shapes: of its trainable variables; compute_s: of a step without exchange, on the slowest rank;
    reducers: by compression, each with `collectives`; codecs: the seconds of each beside sending
    nothing, by the number of ranks; most_ranks: of those compressions that have a limit; round:
    steps of a round; overlap: the share of `compute_s` that an exchange may run beside; joint:
    whether ranks normalise together (sync_batch_norm), so that there can be no rounds.
    """

    shapes: Sequence[tuple[int, ...]]
    compute_s: float
    reducers: Mapping[str, Any]
    codecs: Mapping[str, Line]
    most_ranks: Mapping[str, int]
    round: int = 8
    overlap: float = 0.0
    joint: bool = False

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


def predict(work: Workload, network: Network, compression: str, sync: str) -> Prediction:
    """The cost of one way to communicate."""
    steps = work.round if sync in WITH_ROUNDS and sync != HIERARCHICAL else 1
    parts = network.by_host() if sync == HIERARCHICAL else None
    if sync == HIERARCHICAL and parts is None:
        reason = "needs several hosts, and as many ranks (more than one) on each"
        return _refused(work, compression, sync, steps, reason)
    if sync == HIERARCHICAL and compression in WITH_RESIDUALS:
        return _refused(
            work, compression, sync, steps, "not with hierarchical, since it keeps residuals"
        )
    if work.joint and steps > 1:
        return _refused(work, compression, sync, steps, "not with sync_batch_norm")
    ranks, most = parts[1].ranks if parts else network.ranks, work.most_ranks.get(compression)
    if most and ranks > most:
        return _refused(work, compression, sync, steps, f"at most {most} ranks")
    reducer = work.reducers[compression]
    if parts is None:
        calls = [(network, one.kind, one.bytes) for one in reducer.collectives(work.shapes, ranks)]
        codec = work.codecs[compression].at(ranks)
    else:
        calls, codec = _by_host(work, reducer, *parts), work.codecs[compression].at(ranks)
        codec /= parts[0].ranks  # each rank of a host has a piece of the model
    exchange = sum(where.seconds(kind, size) for where, kind, size in calls)
    busy = min(exchange, sum(where.busy(kind, size) for where, kind, size in calls))
    step = Step(work.compute_s, codec, exchange, steps, work.overlap, busy)
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


def _refused(work: Workload, compression: str, sync: str, steps: int, why: str) -> Prediction:
    return Prediction(compression, sync, steps, math.inf, work.compute_s, refused=why)


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
    """Every compression with every strategy, in the order of their names' tables."""
    return [
        predict(work, network, compression, sync)
        for compression in work.reducers
        for sync in STRATEGIES
    ]
