"""A picture of what communication.py has measured: how much faster each reducer is than `none`.

    python -m tests.benchmarks.communication_plot CSV PNG

CSV: what `communication --csv` has written.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from app.evaluation.figures import DOTS_PER_INCH, to_png

BASE = "none"


def speedups(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """By place ("gloo, 2 ranks, 200mbit") and reducer, in the order of the rows; the newest row of
    each counts."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["what"] == "reducers" and row["name"] != BASE:
            place = f"{row['transport']}, {row['ranks']} ranks, {row['link']}"
            found.setdefault(place, {})[row["name"]] = float(row["speedup"])
    return found


def draw(found: Mapping[str, Mapping[str, float]]) -> bytes:
    """A group of bars for each reducer, a bar for each place, on a logarithmic scale."""
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    figure = Figure(figsize=(9, 4.5), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(found)
    for number, (place, own) in enumerate(found.items()):
        at = [names.index(name) - 0.4 + (number + 0.5) * width for name in own]
        axes.bar(at, list(own.values()), width, color=f"C{number}", label=place)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_yscale("log", base=2)
    ticks = [1, 2, 4, 8, 16, 32]
    axes.set_yticks(ticks, [f"{tick}x" for tick in ticks])
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(f"as fast as {BASE}, codec included")
    axes.legend(fontsize=8)
    return to_png(figure)


def main() -> None:
    """Read the one, write the other."""
    if len(sys.argv) != 3:
        raise SystemExit((__doc__ or "").strip())
    with Path(sys.argv[1]).open(newline="") as file:
        found = speedups(list(csv.DictReader(file)))
    if not found:
        raise SystemExit(f"{sys.argv[1]}: no row of a reducer")
    Path(sys.argv[2]).write_bytes(draw(found))


if __name__ == "__main__":
    main()
