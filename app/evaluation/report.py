"""An evaluation as JSON, Markdown, figures and a short table on the terminal."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.columns import columns
from app.errors import UserError
from app.evaluation.markdown import cell, plain, table
from app.evaluation.scores import BINS, Scores
from app.rundir import write_file

HARDEST = 3  # classes named on the terminal


def write_report(directory: Path, result: dict[str, Any], scores: Scores) -> None:
    """Write evaluation.json, evaluation.md and the figures, over those of an earlier evaluation."""
    from app.evaluation import figures  # Matplotlib takes a while

    names = [row["class"] for row in result["classes"]]
    bins = (scores.bin_examples, scores.bin_hits, scores.bin_confidence)
    drawn = {
        "confusion.png": figures.confusion_figure(scores.confusion, names),
        "reliability.png": figures.reliability_figure(*bins),
        "f1.png": figures.f1_figure(scores.f1, names),
    }
    # One line per key: a confusion matrix with one line per number would be unreadable.
    rows = [f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in result.items()]
    files = {
        "evaluation.json": "{\n" + ",\n".join(rows) + "\n}\n",
        "evaluation.md": to_markdown(result),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            (directory / name).write_bytes(figures.to_png(figure))
        for name, text in files.items():
            # Texts of the data may hold half a surrogate pair, which cannot be written.
            write_file(directory / name, text.encode("utf-8", "replace").decode("utf-8"))
    except OSError as error:
        raise UserError(f"cannot write the evaluation to {directory}: {error}") from None


def to_markdown(result: dict[str, Any]) -> str:
    """The report of an evaluation, for people, from what `evaluate_run` returns."""
    bins = [
        [
            f"{row['above']:.1%} to {row['up_to']:.1%}",
            f"{row['examples']:,}",
            _share(row["confidence"]),
            _share(row["accuracy"]),
        ]
        for row in result["calibration"]
        if row["examples"]
    ]
    parts = [
        f"# {plain(result['data'])}: {result['split']}",
        "\n".join(f"    {line}" for line in result["command"].splitlines()),
        _table(["", ""], [[name, cell(fact)] for name, fact in _facts(result).items()]),
        "## Classes",
        class_table(result),
        "A dash is a share of nothing. Averages are over the classes that occur or are predicted, "
        "and count a dash as 0.",
        "![F1 by class](f1.png)",
        "![Confusion matrix](confusion.png)",
        "## Calibration",
        _table(["confidence", "examples", "mean confidence", "accuracy"], bins),
        "![Reliability diagram](reliability.png)",
        "## Most confident mistakes",
        mistake_table(result),
    ]
    return "\n\n".join(parts) + "\n"


def class_table(result: Mapping[str, Any]) -> str:
    """Precision, recall and F1 of each class and on average, in Markdown."""
    of_class = ("precision", "recall", "f1")
    averages = [
        {"class": f"{name} average", "examples": result["examples"], **result[f"{name}_average"]}
        for name in ("macro", "weighted")
    ]
    rows = [
        [cell(row["class"]), *(_share(row[key]) for key in of_class), f"{row['examples']:,}"]
        for row in result["classes"] + averages
    ]
    return _table(["class", "precision", "recall", "F1", "examples"], rows)


def mistake_table(result: Mapping[str, Any]) -> str:
    """The most confident mistakes, in Markdown."""
    rows = [
        [
            cell(row["true"]),
            cell(row["predicted"]),
            _share(row["confidence"]),
            cell(row["where"]),
            cell(row.get("text", "")),
        ]
        for row in result["mistakes"]
    ]
    return _table(["true", "predicted", "confidence", "where", "text"], rows)


def _facts(result: dict[str, Any]) -> dict[str, str]:
    """What was scored, and the metrics over all classes, by name."""
    examples = f"{result['examples']:,}"
    if result["bad_examples"]:
        examples += f"; {len(result['bad_examples'])} bad example(s) of the source left out"
    which = {"ema": ", the moving average of the weights", "last": ", the last weights"}
    weights = which.get(result.get("weights", ""), "")
    facts = {
        "run": f"{result['run']}, {result['checkpoint']}{weights}",
        "data": f"{result['data']}, {result['split']} (fingerprint {result['fingerprint']})",
        "examples": examples,
        "accuracy": _share(result["accuracy"]),
        "top-5 accuracy": _share(result["top5_accuracy"]),
        "loss": "-" if result["loss"] is None else f"{result['loss']:.4f} nats",
        "macro F1": _share(result["macro_average"]["f1"]),
        "calibration error": f"{_share(result['calibration_error'])} (expected, {BINS} bins)",
    }
    if result["top5_accuracy"] is None:  # with at most five classes it says nothing
        del facts["top-5 accuracy"]
    return facts


def show_report(directory: Path, result: dict[str, Any]) -> None:
    """A short table on the terminal."""
    facts = _facts(result)
    recall = {row["class"]: row["recall"] for row in result["classes"] if row["examples"]}
    hardest = sorted(recall, key=recall.__getitem__)[:HARDEST]
    facts["hardest"] = ", ".join(f"{name} {recall[name]:.0%}" for name in hardest) or "-"
    facts["report"] = str(directory / "evaluation.md")
    print(f"\nEvaluation\n{columns(list(facts.items()))}\n", flush=True)


def _table(header: list[str], rows: list[list[str]]) -> str:
    return table(header, rows) if rows else "None."


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
