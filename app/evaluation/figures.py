"""Figures of an evaluation: confusion matrix, reliability diagram, F1 of each class.

Knows Matplotlib and plain numbers. Figures are drawn without pyplot, so there is no display, no
global state and nothing to close.
"""

import io
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# More classes than this cannot be read in one figure: it shows those that matter most.
MOST_CLASSES = 25
MOST_COLUMNS = 200
NAME_CHARACTERS = 24
DOTS_PER_INCH = 120
COLOUR, CONTRAST = "#4878a8", "#d1605e"


def confusion_figure(confusion: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The confusion matrix, coloured by the share of each true class.

    `confusion`: int (classes, classes), row true, column predicted. If there are many classes, only
    those most often mistaken for others, or others for them, are shown.
    """
    shown = _most_confused(confusion)
    counts = confusion[np.ix_(shown, shown)]
    totals = confusion.sum(axis=1)[shown, None]
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = 2.5 + 0.42 * len(shown)
    figure = Figure(figsize=(side + 1, side), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=8)
    names = [_short(class_names[number]) for number in shown]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    whole = len(shown) == len(confusion)
    title = "Confusion matrix" if whole else f"The {len(shown)} most confused classes"
    axes.set_title(title if whole else f"{title} of {len(confusion)}")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def _most_confused(confusion: np.ndarray) -> np.ndarray:
    wrong = confusion - np.diag(np.diag(confusion))
    mistakes = wrong.sum(axis=0) + wrong.sum(axis=1)
    return np.sort(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES])


def reliability_figure(
    bin_examples: np.ndarray, bin_hits: np.ndarray, bin_confidence: np.ndarray
) -> Figure:
    """A reliability diagram: the accuracy of examples of similar confidence, and their number.

    Args: as in `app.evaluation.scores.Scores`, each (bins,) of equal width from 0 to 1. A
    calibrated model's bars end on the diagonal (Guo et al. 2017, arXiv:1706.04599).
    """
    bins = len(bin_examples)
    left, width = np.arange(bins) / bins, 1 / bins
    some = bin_examples > 0
    accuracy = bin_hits[some] / bin_examples[some]
    confidence = bin_confidence[some] / bin_examples[some]
    figure = Figure(figsize=(5, 6), dpi=DOTS_PER_INCH, layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.bar(
        left[some], accuracy, width, align="edge", color=COLOUR, edgecolor="white", label="accuracy"
    )
    top.plot([0, 1], [0, 1], "--", color="grey", label="calibrated")
    top.plot(confidence, accuracy, "o", color=CONTRAST, markersize=4, label="mean confidence")
    top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title="Reliability")
    top.legend(loc="upper left")
    below.bar(left, bin_examples, width, align="edge", color=COLOUR, edgecolor="white")
    below.set(xlabel="probability of the predicted class", ylabel="examples")
    return figure


def f1_figure(f1: Sequence[float | None], class_names: Sequence[str]) -> Figure:
    """F1 of each class, lowest first; if there are many, only the lowest. Skips values of None."""
    known = [(value, number) for number, value in enumerate(f1) if value is not None]
    shown = sorted(known)[:MOST_CLASSES]
    size = (7, 1.2 + 0.28 * max(1, len(shown)))
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    values = [value for value, _ in shown]
    names = [_short(class_names[number]) for _, number in shown]
    bars = axes.barh(range(len(shown)), values, color=COLOUR)
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(shown)), names, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    whole = len(shown) == len(known)
    title = (
        "F1 by class" if whole else f"The {len(shown)} of {len(known)} classes with the lowest F1"
    )
    axes.set(xlim=(0, 1.1), xlabel="F1", title=title)
    return figure


def rank_time_figure(seconds: np.ndarray, steps: Sequence[int]) -> Figure:
    """A heat map of the time that each rank needed for its own work, over the steps: a slow rank
    is a bright row, a slow moment a bright column.

    `seconds`: float (ranks, reports), per step, without waiting for other ranks, NaN where there
    was no such rank; `steps`: int (reports,). Many reports are averaged into at most 200 columns.
    """
    parts = np.array_split(np.arange(len(steps)), min(len(steps), MOST_COLUMNS))
    seconds = np.ma.masked_invalid(seconds)
    table = np.ma.stack([seconds[:, part].mean(axis=1) for part in parts], axis=1) * 1e3
    ends = [steps[part[-1]] for part in parts]
    size = (9, 1.8 + min(6.0, 0.3 * len(table)))
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(table, aspect="auto", interpolation="nearest", cmap="viridis")
    shown = np.linspace(0, len(ends) - 1, min(len(ends), 8)).round().astype(int)
    axes.set_xticks(shown, [f"{ends[number]:,}" for number in shown])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="step", ylabel="rank", title="Work of each rank, without waiting for others")
    figure.colorbar(image, ax=axes, label="ms per step")
    return figure


def to_png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that is in none of the fonts is drawn as a box.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        figure.savefig(content, format="png")
    return content.getvalue()


def _short(name: str) -> str:
    """A class name that fits beside an axis."""
    line = " ".join(name.split())
    return line if len(line) <= NAME_CHARACTERS else line[: NAME_CHARACTERS - 1] + "…"
