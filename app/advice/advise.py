"""`python -m app advise`: which way to communicate pays, for a model on a network."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.advice import show
from app.advice.measure import measure
from app.advice.model import Cluster
from app.advice.output import write
from app.advice.plot import efficiency_png, tried_png
from app.advice.predict import Prediction, Workload, predict, predict_all
from app.advice.recommend import Tried, recommend, to_try
from app.advice.trial import (
    LIMITS,
    Computing,
    codec_seconds,
    make_reducers,
    shapes_of,
    time_computing,
    time_steps,
    with_choice,
)
from app.config import Config
from app.distributed.world import World
from app.errors import UserError
from app.load import LoadedData, load_data
from app.preflight import with_fitting_batch

LOG = logging.getLogger(__name__)
STEADY = 1.2  # computing that changes by more, before and after the tries, says that others compute
ROUND = 8  # steps, where the config does not say
MOST_BYTES, NETWORK_S = 2**26, 5.0  # of the measurement of the network
COMPUTE_S = 3.0
CODEC_RANKS = (2, 8)  # between which codecs are measured for clusters of any size


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user asks for: how many ways are tried, for how long each, and the share of the
    computing that an exchange may run beside."""

    tries: int
    seconds: float
    overlap: float
    output: Path | None


def advise_here(config: Config, world: World, wanted: Wanted) -> dict[str, Any]:
    """Measure, predict, try and recommend for the ranks that there are; a collective.

    Returns what is in advice.json. Raises UserError for what the user can fix.
    """
    data, config = _prepared(config, world)
    plain = with_choice(config, "none", "every_step", 1)
    rounds = (1, config.distribution.sync_every_steps or ROUND)
    compute = time_computing(plain, data, world, COMPUTE_S, rounds)
    work = _workload(config, data, world, compute, [world.size], wanted.overlap)
    found = measure(world, MOST_BYTES, NETWORK_S)
    predictions = predict_all(work, found.network)
    if world.is_chief:
        print(show.measured(config, work, found.parts[0].lines, world), "\n", sep="\n", flush=True)
        print(show.matrix(predictions), flush=True)
    tried, refused = _try(config, data, world, to_try(predictions, wanted.tries), wanted.seconds)
    after = time_computing(plain, data, world, COMPUTE_S).seconds
    best, reasons = recommend(tried, config.optimizer.optimizer)
    result = show.to_json(work, predictions, tried, best, reasons, refused)
    result["compute_after_s"] = after
    if world.is_chief:
        print("\n" + show.tried(tried, config, wanted.seconds, refused), flush=True)
        before = compute.seconds
        if max(after, before) > STEADY * min(after, before):
            LOG.warning(show.UNSTEADY, 1e3 * before, 1e3 * after)
        print("\n" + show.recommendation(best, reasons), flush=True)
    if wanted.output:
        directory = wanted.output
        world.from_chief(
            lambda: write(directory, {"advice": result}, {"advice": _tried_png(tried)})
        )
    return result


def _prepared(config: Config, world: World) -> tuple[LoadedData, Config]:
    """The data as `train` loads it, and the config with a batch size that fits it."""
    world.verify_same(config.facts())
    data = load_data(config, world)
    return data, with_fitting_batch(config, len(data.splits["train"]), world.size)


def _workload(
    config: Config,
    data: LoadedData,
    world: World,
    compute: Computing,
    ranks: Sequence[int],
    overlap: float,
) -> Workload:
    shapes = shapes_of(config, data)
    codecs = codec_seconds(config, shapes, world, ranks)
    rounds = config.distribution.sync_every_steps or ROUND
    reducers, joint = make_reducers(config), config.distribution.sync_batch_norm
    seconds, waits = compute
    return Workload(shapes, seconds, reducers, codecs, LIMITS, rounds, overlap, joint, waits)


def _try(
    config: Config, data: LoadedData, world: World, chosen: Sequence[Prediction], seconds: float
) -> tuple[list[Tried], dict[str, str]]:
    """What was tried, and why others could not be, by label; the same on every rank."""
    found, refused = [], {}
    for one in chosen:
        changed = with_choice(config, one.compression, one.sync, one.round)
        try:
            timed = time_steps(changed, data, world, seconds)
        except (UserError, ValueError) as error:
            if one is chosen[0]:
                raise
            refused[one.label] = str(error)
            continue
        found.append(Tried(one, timed.seconds, timed.sent_bytes))
    return found, refused


def _tried_png(tried: Sequence[Tried]) -> bytes:
    labels = [one.prediction.label for one in tried]
    predicted = [one.prediction.step_s for one in tried]
    return tried_png(labels, predicted, [one.step_s for one in tried])


def advise_cluster(
    config: Config, cluster: Cluster, compute_s: float | None, wanted: Wanted
) -> dict[str, Any]:
    """Predict and recommend for a cluster that is not there, in this process alone.

    `compute_s`: of a step without exchange; None: measured here. Returns what is in advice.json.
    """
    world = World()
    data, config = _prepared(config, world)
    given = compute_s is not None
    if compute_s is None:
        plain = with_choice(config, "none", "every_step", 1)
        compute_s = time_computing(plain, data, world, COMPUTE_S).seconds
    computing = Computing(compute_s, {})
    work = _workload(config, data, world, computing, CODEC_RANKS, wanted.overlap)
    predictions = predict_all(work, cluster)
    possible = [Tried(one, one.step_s) for one in predictions if not one.refused]
    best, reasons = recommend(possible, config.optimizer.optimizer)
    print(show.assumed(config, work, cluster, given), "\n", sep="\n")
    print(show.matrix(predictions))
    print("\n" + show.algorithms(work, cluster))
    print("\n" + show.recommendation(best, reasons), flush=True)
    result = show.to_json(work, predictions, [], best, reasons, {})
    result |= {"cluster": dataclasses.asdict(cluster), "curves": curves(work, cluster)}
    if wanted.output:
        title = f"{work.parameters / 1e6:.1f}M parameters, {1e3 * compute_s:.0f} ms of computing"
        picture = efficiency_png(result["curves"], title)
        write(wanted.output, {"advice": result}, {"advice": picture})
    return result


def curves(work: Workload, cluster: Cluster) -> dict[str, list[tuple[int, float]]]:
    """(workers, efficiency) of each compression at every step, and of the hierarchical exchange,
    from 1 to the workers of the cluster in powers of two."""
    counts = {2**power for power in range(cluster.ranks.bit_length())} | {cluster.ranks}
    found: dict[str, list[tuple[int, float]]] = {}
    ways = [(name, "every_step") for name in work.reducers] + [("none", "hierarchical")]
    for workers in sorted(counts):
        smaller = dataclasses.replace(cluster, ranks=workers)
        for compression, sync in ways:
            one = predict(work, smaller, compression, sync)
            if not one.refused:
                label = compression if sync == "every_step" else f"{compression}, {sync}"
                found.setdefault(label, []).append((workers, one.efficiency))
    return found
