"""What `python -m app advise` prints and writes."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.advice.accuracy import ASYNCHRONOUS, SOURCE, cost_of
from app.advice.model import Cluster, Line
from app.advice.output import line_text
from app.advice.predict import Prediction, Workload, predict
from app.advice.recommend import Tried
from app.advice.units import ms_text, size_text
from app.columns import columns
from app.config import Config
from app.distributed.world import World

NONE = "-"
UNSTEADY = (
    "a step took %.0f ms of computing before the tries and %.0f ms after them: something else "
    "computes here too, so predictions and tries do not compare well. Run it again alone"
)


def measured(config: Config, work: Workload, lines: Mapping[str, Line], world: World) -> str:
    """What the predictions are made of, for ranks that there are."""
    rows = [["computing", f"{ms_text(work.compute_s)} ms per step on the slowest of {world.size}"]]
    for every, waits_s in work.waits_s.items():
        when = "every step" if every == 1 else f"{every} steps"
        rows.append(["waiting", f"{ms_text(waits_s)} ms per step if all wait after {when}"])
    rows += [[kind, line_text(line)] for kind, line in lines.items()]
    return _facts(config, work, rows)


def assumed(config: Config, work: Workload, cluster: Cluster, compute_given: bool) -> str:
    """What the predictions are made of, for a cluster that is not there."""
    examples = config.training.examples_per_step(1)
    how = "as given" if compute_given else f"measured here, with {examples} examples"
    rows = [
        ["workers", f"{cluster.ranks} on {cluster.hosts} host(s)"],
        ["between hosts", f"{line_text(cluster.across)} a message"],
        *([["in a host", f"{line_text(cluster.local)} a message"]] if cluster.per_host > 1 else []),
        ["adding up", f"{size_text(1 / cluster.reduce_s_per_byte)}/s (assumed)"],
        ["computing", f"{ms_text(work.compute_s)} ms per step ({how})"],
    ]
    return _facts(config, work, rows)


def _facts(config: Config, work: Workload, rows: list[list[str]]) -> str:
    what = f"{config.model.model} on {config.data.dataset}: {work.parameters:,} parameters"
    overlap = f"{work.overlap:.0%} of the computing hides an exchange at every step (--overlap)"
    rows = [*rows, ["codecs", "measured here"], ["assumed", overlap]]
    if not config.distribution.sparse_as_dense:
        rows.append(["", "dense gradients, though rows of embeddings travel here: trust the tries"])
    return what + "\n" + columns(rows)


def matrix(predictions: Sequence[Prediction]) -> str:
    """Milliseconds of a step, for all ways to communicate."""
    names = list(dict.fromkeys(one.compression for one in predictions))
    rows_of = {name: [one for one in predictions if one.compression == name] for name in names}
    heads = rows_of[names[0]]
    titles = [f"{one.sync} ({one.round})" if one.round > 1 else one.sync for one in heads]
    rows = [["", *titles, "codec ms", "bytes per exchange"]]
    for name in names:
        row = rows_of[name]
        steps = [NONE if one.refused else ms_text(one.step_s) for one in row]
        sent = NONE if row[0].refused else size_text(row[0].sent_bytes)
        codec = NONE if row[0].refused else ms_text(row[0].codec_s)
        rows.append([name, *steps, codec, sent])
    reasons = dict.fromkeys(f"{NONE} {_who(o)}: {o.refused}" for o in predictions if o.refused)
    title = "Predicted ms per step (with its steps between rounds in brackets)"
    return "\n".join([f"{title}:", columns(rows, numbers=True), *reasons])


def _who(refused: Prediction) -> str:
    """What is not possible: a sync whatever the compression, or one compression."""
    of_all = refused.refused.startswith("needs")
    return refused.sync if of_all else refused.compression


def tried(found: Sequence[Tried], config: Config, seconds: float, refused: Mapping) -> str:
    """Predicted beside measured."""
    compute = found[0].prediction.compute_s
    rows = [["", "predicted ms", "measured ms", "computing", "MB per step", "points lost"]]
    for one in found:
        given = one.prediction
        cost = cost_of(given.compression, given.sync, config.optimizer.optimizer, given.round)
        rows.append(
            [
                given.label,
                ms_text(given.step_s),
                ms_text(one.step_s),
                f"{min(1.0, compute / one.step_s):.0%}",
                f"{one.sent_bytes / 1e6:.2f}",
                "unknown" if cost.points is None else f"{cost.points:.1f}",
            ]
        )
    lines = [f"Tried for {seconds:g} s each (points of accuracy lost: {SOURCE}):"]
    return "\n".join(
        [*lines, columns(rows, numbers=True), *(f"not {k}: {why}" for k, why in refused.items())]
    )


def algorithms(work: Workload, cluster: Cluster) -> str:
    """Milliseconds of an exchange at every step, by how it is done."""
    rows = [["", "ring", "tree", "hierarchical"]]
    for name in work.reducers:
        ways = [
            predict(work, dataclasses.replace(cluster, algorithm=algorithm), name, sync)
            for algorithm, sync in (
                ("ring", "every_step"),
                ("tree", "every_step"),
                ("best", "hierarchical"),
            )
        ]
        rows.append([name, *(NONE if o.refused else ms_text(o.exchange_s) for o in ways)])
    return "Predicted ms of an exchange:\n" + columns(rows, numbers=True)


def recommendation(best: Tried, reasons: Sequence[str]) -> str:
    """What to write into a recipe, and why."""
    return "\n".join(
        [
            "Recommended:",
            *(f"  {line}" for line in keys(best)),
            *(f"- {one}" for one in (*reasons, ASYNCHRONOUS)),
        ]
    )


def keys(best: Tried) -> list[str]:
    """The lines of a recipe's [distribution]."""
    one = best.prediction
    lines = [f'compression = "{one.compression}"', f'sync = "{one.sync}"']
    return lines + ([f"sync_every_steps = {one.round}"] if one.round > 1 else [])


def to_json(
    work: Workload,
    predictions: Sequence[Prediction],
    found: Sequence[Tried],
    best: Tried,
    reasons: Sequence[str],
    refused: Mapping[str, str],
) -> dict[str, Any]:
    """All numbers, in seconds and bytes."""

    def of(one: Prediction) -> dict[str, Any]:
        content = dataclasses.asdict(one) | {"efficiency": one.efficiency}
        return content | ({} if math.isfinite(one.step_s) else {"step_s": None})

    return {
        "parameters": work.parameters,
        "compute_s": work.compute_s,
        "waits_s": {str(every): waits_s for every, waits_s in work.waits_s.items()},
        "overlap": work.overlap,
        "predicted": [of(one) for one in predictions],
        "tried": [
            {
                "label": one.prediction.label,
                "predicted_s": one.prediction.step_s,
                "measured_s": one.step_s,
                "sent_bytes": one.sent_bytes,
            }
            for one in found
        ],
        "refused": dict(refused),
        "recommended": of(best.prediction),
        "reasons": list(reasons),
    }
