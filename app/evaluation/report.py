"""An evaluation as JSON, Markdown, figures and a short table on the terminal."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.columns import columns
from app.errors import UserError
from app.evaluation.markdown import cell, plain, table
from app.evaluation.results import Results
from app.evaluation.scores import BINS, Scores
from app.rundir.contents import write_file

HARDEST = 3  # classes named on the terminal


def by_label(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What an evaluation says of each label, by its name; "" where there is one."""
    return result.get("heads", {"": result})


def write_report(directory: Path, result: dict[str, Any], results: Results) -> None:
    """Write evaluation.json, evaluation.md and the figures, over those of an earlier evaluation."""
    from app.evaluation.figures import to_png  # Matplotlib takes a while

    drawn: dict[str, Any] = {}
    for (label, one), scores in zip(by_label(result).items(), results.heads.values(), strict=True):
        drawn |= _figures(label, [row["class"] for row in one["classes"]], scores)
    files = {
        "evaluation.json": _to_json(result) + "\n",
        "evaluation.md": to_markdown(result),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            (directory / name).write_bytes(to_png(figure))
        for name, text in files.items():
            # Texts of the data may hold half a surrogate pair, which cannot be written.
            write_file(directory / name, text.encode("utf-8", "replace").decode("utf-8"))
    except OSError as error:
        raise UserError(f"cannot write the evaluation to {directory}: {error}") from None


def _to_json(values: Mapping[str, Any], depth: int = 1) -> str:
    """One line per key: a confusion matrix with one line per number would be unreadable."""
    margin = " " * depth
    rows = []
    for key, value in values.items():
        text = json.dumps(value, ensure_ascii=False)
        if key == "heads":
            each = (f"{margin} {json.dumps(k)}: {_to_json(v, depth + 2)}" for k, v in value.items())
            text = "{\n" + ",\n".join(each) + f"\n{margin}}}"
        rows.append(f"{margin}{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(rows) + f"\n{margin[1:]}}}"


def _figures(label: str, names: list[str], scores: Scores) -> dict[str, Any]:
    """Figures by the name of their file."""
    from app.evaluation import figures

    bins = (scores.bin_examples, scores.bin_hits, scores.bin_confidence)
    return {
        _file("confusion", label): figures.confusion_figure(scores.confusion, names),
        _file("reliability", label): figures.reliability_figure(*bins),
        _file("f1", label): figures.f1_figure(scores.f1, names),
    }


def _file(figure: str, label: str) -> str:
    """A name that is safe in every file system, and in a link."""
    safe = re.sub(r"[^\w.-]", "_", label)
    return f"{figure}-{safe}.png" if label else f"{figure}.png"


def to_markdown(result: dict[str, Any]) -> str:
    """The report of an evaluation, for people, from what `evaluate_run` returns."""
    parts = [
        f"# {plain(result['data'])}: {result['split']}",
        "\n".join(f"    {line}" for line in result["command"].splitlines()),
        _fact_table(_facts(result)),
    ]
    for label, one in by_label(result).items():
        if label:
            parts += [f"## {plain(label)}", _fact_table(_scored(one))]
        parts += _sections(one, label)
    return "\n\n".join(parts) + "\n"


def _sections(result: dict[str, Any], label: str) -> list[str]:
    """Classes, calibration and mistakes of one label."""
    level = "###" if label else "##"
    bins = [
        [
            f"{row['above']:.1%} to {row['up_to']:.1%}",
            f"{row['examples']:,}",
            share(row["confidence"]),
            share(row["accuracy"]),
        ]
        for row in result["calibration"]
        if row["examples"]
    ]
    return [
        f"{level} Classes",
        class_table(result),
        "A dash is a share of nothing. Averages are over the classes that occur or are predicted, "
        "and count a dash as 0.",
        f"![F1 by class]({_file('f1', label)})",
        f"![Confusion matrix]({_file('confusion', label)})",
        f"{level} Calibration",
        _table(["confidence", "examples", "mean confidence", "accuracy"], bins),
        f"![Reliability diagram]({_file('reliability', label)})",
        *_coverage(result, level),
        f"{level} Most confident mistakes",
        mistake_table(result),
    ]


def _coverage(result: Mapping[str, Any], level: str) -> list[str]:
    """What is left if the least sure answers are left out."""
    rows = [
        [
            f"{row['abstain_below']:g}",
            f"{row['answered']:,}",
            share(row["coverage"]),
            share(row["accuracy"]),
        ]
        for row in result.get("coverage", ())
    ]
    if not rows:
        return []
    header = ["abstain below", "answered", "coverage", "accuracy"]
    return [f"{level} Accuracy over coverage", _table(header, rows)]


def class_table(result: Mapping[str, Any]) -> str:
    """Precision, recall and F1 of each class and on average, in Markdown."""
    of_class = ("precision", "recall", "f1")
    averages = [
        {"class": f"{name} average", "examples": result["examples"], **result[f"{name}_average"]}
        for name in ("macro", "weighted")
    ]
    rows = [
        [cell(row["class"]), *(share(row[key]) for key in of_class), f"{row['examples']:,}"]
        for row in result["classes"] + averages
    ]
    return _table(["class", "precision", "recall", "F1", "examples"], rows)


def mistake_table(result: Mapping[str, Any]) -> str:
    """The most confident mistakes, in Markdown."""
    rows = [
        [
            cell(row["true"]),
            cell(row["predicted"]),
            share(row["confidence"]),
            cell(row["where"]),
            cell(row.get("text", "")),
        ]
        for row in result["mistakes"]
    ]
    return _table(["true", "predicted", "confidence", "where", "text"], rows)


def _facts(result: dict[str, Any]) -> dict[str, str]:
    """What was scored, and the metrics over all classes, by name; of several labels those of all
    together."""
    bad = result["bad_examples"]
    left_out = f"{len(bad)} bad example(s) of the source left out"
    which = {"ema": ", the moving average of the weights", "last": ", the last weights"}
    weights = which.get(result.get("weights", ""), "")
    facts = {
        "run": f"{result['run']}, {result['checkpoint']}{weights}",
        "data": f"{result['data']}, {result['split']} (fingerprint {result['fingerprint']})",
    }
    if "heads" in result:
        bad_too = {"bad examples": left_out} if bad else {}
        return facts | bad_too | {"loss of all labels": _nats(result["loss"])}
    scored = _scored(result)
    if bad:
        scored["examples"] += f"; {left_out}"
    return facts | scored


def _scored(result: dict[str, Any]) -> dict[str, str]:
    """The metrics of one label over all classes, by name."""
    facts = {
        "examples": f"{result['examples']:,}",
        "accuracy": share(result["accuracy"]),
        "top-5 accuracy": share(result["top5_accuracy"]),
        "loss": _nats(result["loss"]),
        "macro F1": share(result["macro_average"]["f1"]),
        "calibration error": f"{share(result['calibration_error'])} (expected, {BINS} bins)",
    }
    if "uncalibrated" in result:
        before = share(result["uncalibrated"]["calibration_error"])
        facts["calibration error"] += f"; {before} before calibration"
    if "unknown_class" in result:
        unknown = result["unknown_class"]
        area = "-" if unknown["auroc"] is None else f"{unknown['auroc']:.4f}"
        facts["unknown class"] = (
            f"{unknown['class']}: recall {share(unknown['recall'])} of {unknown['examples']:,}, "
            f"AUROC of the confidence {area}, accuracy of the others "
            f"{share(unknown['accuracy_of_others'])}"
        )
    if result["top5_accuracy"] is None:  # with at most five classes it says nothing
        del facts["top-5 accuracy"]
    return facts


def show_report(directory: Path, result: dict[str, Any]) -> None:
    """A short table on the terminal."""
    facts = _facts(result)
    for label, one in by_label(result).items():
        scored = (_scored(one) if label else {}) | {"hardest": _hardest_of(one)}
        facts |= {f"{label}, {name}" if label else name: fact for name, fact in scored.items()}
    facts["report"] = str(directory / "evaluation.md")
    print(f"\nEvaluation\n{columns(list(facts.items()))}\n", flush=True)


def _hardest_of(result: dict[str, Any]) -> str:
    return hardest({row["class"]: row["recall"] for row in result["classes"]}) or "-"


def hardest(recall: Mapping[str, float | None]) -> str:
    """The classes with the lowest recall, for people."""
    known = {name: part for name, part in recall.items() if part is not None}
    return ", ".join(f"{n} {known[n]:.0%}" for n in sorted(known, key=known.__getitem__)[:HARDEST])


def _fact_table(facts: Mapping[str, str]) -> str:
    return _table(["", ""], [[name, cell(fact)] for name, fact in facts.items()])


def _table(header: list[str], rows: list[list[str]]) -> str:
    return table(header, rows) if rows else "None."


def share(part: float | None) -> str:
    """A share for people, such as 97.25%; a dash where there is none."""
    return "-" if part is None else f"{part:.2%}"


def _nats(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f} nats"
