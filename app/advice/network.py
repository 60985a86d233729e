"""`python -m app network`: measure between these ranks, and show it."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.advice.measure import KINDS, Measurement, Part, measure
from app.advice.output import line_text, write
from app.advice.plot import network_png
from app.advice.units import ms_text, size_text
from app.columns import columns
from app.distributed.world import World

NAMES = {
    "all": "all {} ranks",
    "local": "the {} ranks of one host",
    "across": "one rank of each of the {} hosts, while those beside them do the same",
}


def measure_network(
    world: World, most_bytes: int, budget_s: float, output: Path | None
) -> dict[str, Any]:
    """Measure, print, and write network.json and network.png into `output`; a collective.

    Returns what is in network.json. Raises UserError if the output fails.
    """
    found = measure(world, most_bytes, budget_s)
    result = to_json(found)
    if world.is_chief:
        print(text(found), flush=True)
    if output:
        world.from_chief(
            lambda: write(output, {"network": result}, {"network": network_png(found)})
        )
    return result


def text(found: Measurement) -> str:
    """What a person reads."""
    blocks = [_layout(found.hosts) + f", over {found.backend}"]
    for part in found.parts:
        blocks.append(
            f"Between {NAMES[part.name].format(part.ranks)}:\n{columns(_rows(part), True)}"
        )
        blocks.append(columns([[kind, line_text(part.lines[kind])] for kind in KINDS]))
    blocks.append(f"a rank adds up float32 at {size_text(1 / found.reduce_s_per_byte)}/s")
    return "\n\n".join(blocks)


def _layout(hosts: Sequence[str]) -> str:
    ranks: dict[str, list[str]] = {}
    for rank, host in enumerate(hosts):
        ranks.setdefault(host, []).append(str(rank))
    where = "; ".join(f"{', '.join(own)} on {host}" for host, own in ranks.items())
    return f"{len(hosts)} ranks: {where}"


def _rows(part: Part) -> list[list[str]]:
    rows = [["collective", "bytes per rank", "ms", "MB/s", "bus MB/s", "repeats"]]
    for point in part.points:
        speed = point.size / point.seconds / 1e6
        rows.append(
            [
                point.kind,
                size_text(point.size),
                ms_text(point.seconds),
                f"{speed:,.1f}",
                f"{speed * point.bus_share(part.ranks):,.1f}",
                str(point.repeats),
            ]
        )
    return rows


def to_json(found: Measurement) -> dict[str, Any]:
    """Everything that was measured, in seconds and bytes."""
    return {
        "hosts": list(found.hosts),
        "chief": socket.gethostname(),
        "backend": found.backend,
        "reduce_seconds_per_byte": found.reduce_s_per_byte,
        "parts": [
            {
                "name": part.name,
                "ranks": part.ranks,
                "points": [point._asdict() for point in part.points],
                "fits": {kind: line._asdict() for kind, line in part.lines.items()},
            }
            for part in found.parts
        ],
    }
