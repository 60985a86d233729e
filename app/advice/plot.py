"""Figures of what was measured and predicted. Drawn without pyplot, as in app/evaluation."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from app.advice.measure import KINDS, Measurement
from app.evaluation.figures import COLOUR, CONTRAST, DOTS_PER_INCH, to_png


def network_png(found: Measurement) -> bytes:
    """Time over size of each collective, measured (dots) and fitted (lines)."""
    parts = len(found.parts)
    figure = Figure(figsize=(6 * parts, 4.5), dpi=DOTS_PER_INCH, layout="constrained")
    for axes, part in zip(figure.subplots(1, parts, squeeze=False)[0], found.parts, strict=True):
        for number, kind in enumerate(KINDS):
            own = [point for point in part.points if point.kind == kind]
            sizes = [point.size for point in own]
            axes.plot(sizes, [1e3 * point.seconds for point in own], "o", color=f"C{number}")
            fitted = [1e3 * part.lines[kind].at(size) for size in sizes]
            axes.plot(sizes, fitted, "-", color=f"C{number}", label=kind)
        axes.set(xscale="log", yscale="log", xlabel="bytes per rank", ylabel="ms")
        axes.set_title(f"{part.name}: {part.ranks} ranks ({found.backend})")
        axes.legend()
    return to_png(figure)


def tried_png(
    labels: Sequence[str], predicted: Sequence[float], measured: Sequence[float]
) -> bytes:
    """Predicted beside measured milliseconds of a step."""
    height = 1.5 + 0.6 * len(labels)
    figure = Figure(figsize=(8, height), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(labels))
    rows = ((-0.2, predicted, CONTRAST, "predicted"), (0.2, measured, COLOUR, "measured"))
    for offset, seconds, colour, name in rows:
        widths = [1e3 * one for one in seconds]
        axes.barh([place + offset for place in places], widths, 0.38, color=colour, label=name)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set(xlabel="ms per step", title="What was tried")
    axes.legend()
    return to_png(figure)


def efficiency_png(curves: Mapping[str, Sequence[tuple[int, float]]], title: str) -> bytes:
    """The share of a step that computes, over the number of workers."""
    figure = Figure(figsize=(8, 5), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(curves.items()):
        workers, efficiency = zip(*points, strict=True)
        style = "--" if "hierarchical" in name else "-"
        axes.plot(
            workers, efficiency, f"{style}o", markersize=3, color=f"C{number % 10}", label=name
        )
    axes.set_xscale("log", base=2)
    axes.set(xlabel="workers", ylabel="compute / step", ylim=(0, 1.02), title=title)
    axes.legend(fontsize=8)
    return to_png(figure)
