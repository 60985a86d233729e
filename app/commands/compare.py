"""`python -m app compare RUN RUN ...`: how runs differ in config, results and speed.

Reads the files of the runs and nothing else: no TensorFlow, so that it answers at once, and it can
look at runs that are still going on. The first run is what the others are compared with.
"""

import argparse
import csv
import io
import json
import math
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from app.columns import columns
from app.commands.parser import add_output, refuse_launcher
from app.errors import UserError
from app.evaluation.markdown import plain
from app.evaluation.markdown import table as markdown_table
from app.monitor.event_files import event_files, events
from app.rundir.contents import write_file
from app.rundir.files import STATE, RunFiles, list_checkpoints

NOTHING = "-"
SAME = "no config key differs"
FINGERPRINT_DIGITS = 12  # enough to tell two apart
NOT_COMPARED = "run.run_dir"  # another one for every run
OF_LABEL = "test_accuracy of "  # and its name: a key of a run's metrics
CURVES = ("loss", "accuracy")
TAGS = {f"learning/{name}": name for name in CURVES}  # in the event files
SPLITS = {"train": ":", "validation": "-"}  # folders of event files, and how they are drawn
# Ratios of these to the first run are shown.
METRICS: dict[str, tuple[str, Callable[[float], str]]] = {
    "test accuracy": ("test_accuracy", "{:.2%}".format),
    "test accuracy with ema": ("test_ema_accuracy", "{:.2%}".format),
    "test loss": ("test_loss", "{:.4f}".format),
    "examples/s": ("examples_per_second", "{:,.0f}".format),
    "examples/s per rank": ("examples_per_second_and_rank", "{:,.0f}".format),
    "seconds": ("seconds", "{:,.1f}".format),
}
NOT_OF_ALL = ("test_ema_accuracy",)  # without a run that has it there is no row
# Of these not.
COUNTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "ranks": ("world_size", "{:,.0f}".format),
    "epochs": ("epoch", "{:,.0f}".format),
    "steps": ("step", "{:,.0f}".format),
    "waited for input": ("input_wait_share", "{:.1%}".format),
    "goodput": ("goodput_share", "{:.1%}".format),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The runs."""
    parser.usage = "python -m app compare RUN RUN ... [--output DIR]"
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of runs")
    add_output(parser, "DIR", "also write it there as Markdown and CSV, and draw the curves")


def run(options: argparse.Namespace) -> None:
    """Compare in this process."""
    refuse_launcher("compare")
    compare(options.runs, options.output)


@dataclass(frozen=True)
class ComparedRun:
    """What the files of a run say.

    `name`: what it is called in tables; `config`: values by "section.key", and the fingerprint of
    the data; `metrics`: the numbers of metrics.json, empty if there are none of the newest weights;
    `steps_per_epoch`: None before the first epoch has ended.
    """

    name: str
    directory: Path
    config: dict[str, Any]
    metrics: dict[str, float]
    status: str
    steps_per_epoch: float | None


class Point(NamedTuple):
    """One point of a curve; `seconds` since the run's first event."""

    step: int
    seconds: float
    value: float


def compare(runs: Sequence[Path], output: Path | None) -> None:
    """Print a table of the runs; with `output` write it there too, and draw their curves.

    `output` is a directory for comparison.md, comparison.csv and curves.png. Ratios are to the
    first run. What a run does not have yet is shown as such.

    Raises:
        UserError: a directory holds no run, or its config.toml or the output fails.
    """
    names = _names(runs)
    found = [read_run(path, name) for path, name in zip(runs, names, strict=True)]
    rows = table(found)
    print(columns(rows))
    if output:
        try:
            output.mkdir(parents=True, exist_ok=True)
            write_file(output / "comparison.md", _markdown(rows))
            write_file(output / "comparison.csv", _csv(found))
            (output / "curves.png").write_bytes(_curves_png(found))
        except OSError as error:
            raise UserError(f"cannot write to {output}: {error.strerror or error}") from None
        print(f"\ncomparison.md, comparison.csv and curves.png are in {output}")


def _names(runs: Sequence[Path]) -> list[str]:
    """The names of the directories, or their paths if two have the same name."""
    names = [path.resolve().name for path in runs]
    return names if len(set(names)) == len(names) else [str(path) for path in runs]


def read_run(directory: Path, name: str) -> ComparedRun:
    """The run in a directory, finished or not; UserError if there is none."""
    files = RunFiles(directory)
    try:
        tables = tomllib.loads(files.config.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{directory} holds no run (no {files.config.name}): give directories of runs"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{files.config} cannot be read: {error}") from None
    # As it stands in the file: a run of an older version may have other keys.
    config = {
        f"{section}.{key}": value
        for section, keys in tables.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
    }
    config.pop(NOT_COMPARED, None)
    fingerprint = _read_json(files.data_plan).get("fingerprint")
    if fingerprint:
        config["data (fingerprint)"] = str(fingerprint)[:FINGERPRINT_DIGITS]
    newest, results = _newest_checkpoint(files), _read_json(files.metrics)
    metrics = _numbers(results) | _of_labels(results.get("test_heads"))
    if isinstance(goodput := results.get("goodput"), dict) and "share" in goodput:
        metrics |= _numbers({"goodput_share": goodput["share"]})
    done, wanted = int(newest.get("epoch", 0)), config.get("training.epochs", 0)
    if metrics.get("epoch", 0) < done:
        metrics = {}  # of an earlier end, before the run was resumed for more epochs
    if "examples_per_second" in metrics and metrics.get("world_size"):
        share = metrics["examples_per_second"] / metrics["world_size"]
        metrics["examples_per_second_and_rank"] = share
    stopping = results.get("early_stopping")
    ended_early = isinstance(stopping, dict) and stopping.get("ended_the_run")
    whole = metrics and (ended_early or metrics.get("epoch", 0) >= wanted)
    status = "finished" if whole else f"unfinished, {done} of {wanted} epochs"
    per_epoch = newest["step"] / done if done and newest.get("step") else None
    return ComparedRun(name, directory, config, metrics, status, per_epoch)


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing, unfinished or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _numbers(found: dict[str, Any]) -> dict[str, float]:
    """The numbers in a JSON object."""
    return {key: value for key, value in found.items() if isinstance(value, int | float)}


def _of_labels(found: Any) -> dict[str, float]:
    """The accuracy of each label, where a run has several."""
    each = found.items() if isinstance(found, dict) else ()
    numbers = {label: _numbers(one).get("accuracy") for label, one in each if isinstance(one, dict)}
    return {f"{OF_LABEL}{label}": one for label, one in numbers.items() if one is not None}


def _compared(runs: Sequence[ComparedRun]) -> dict[str, tuple[str, Callable[[float], str]]]:
    """METRICS, and after the accuracy that of each label that a run has among several."""
    keys = dict.fromkeys(key for run in runs for key in run.metrics if key.startswith(OF_LABEL))
    of_labels = {f"test accuracy, {key.removeprefix(OF_LABEL)}": key for key in keys}
    first, *rest = METRICS.items()
    return dict([first, *((name, (key, first[1][1])) for name, key in of_labels.items()), *rest])


def _newest_checkpoint(files: RunFiles) -> dict[str, float]:
    """step, epoch and more of the newest checkpoint; empty if there is none."""
    found = list_checkpoints(files.checkpoints)
    return _numbers(_read_json(found[-1] / STATE)) if found else {}


def table(runs: Sequence[ComparedRun]) -> list[list[str]]:
    """Rows of a name and one cell per run: a heading, status, metrics, config keys that differ."""
    rows = [["", *(run.name for run in runs)], ["status", *(run.status for run in runs)]]
    compared = _compared(runs)
    for name, (key, shown) in (compared | COUNTS).items():
        if key in NOT_OF_ALL and not any(key in run.metrics for run in runs):
            continue
        cells = [shown(run.metrics[key]) if key in run.metrics else NOTHING for run in runs]
        if name in compared:
            parts = [ratio(run, runs[0], key) for run in runs[1:]]
            marks = [f" (x{part:.2f})" if part is not None else "" for part in parts]
            cells = [cells[0], *(c + mark for c, mark in zip(cells[1:], marks, strict=True))]
        rows.append([name, *cells])
    keys = differing(runs)
    rows += [[key, *(_shown(run.config.get(key)) for run in runs)] for key in keys]
    return rows if keys or len(runs) < 2 else [*rows, [SAME, *[""] * len(runs)]]


def differing(runs: Sequence[ComparedRun]) -> list[str]:
    """The config keys that are not the same in all runs, in the order of the config."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    return [key for key in keys if len({_shown(run.config.get(key)) for run in runs}) > 1]


def ratio(run: ComparedRun, first: ComparedRun, key: str) -> float | None:
    """A metric of a run by that of the first run; None if either has none, or it is 0."""
    value, unit = run.metrics.get(key), first.metrics.get(key)
    if value is None or not unit or not math.isfinite(value / unit):
        return None
    return value / unit


def _shown(value: Any) -> str:
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value)


def _markdown(rows: list[list[str]]) -> str:
    header, *rest = [[plain(one) for one in row] for row in rows]
    note = "Ratios are to the first run. Keys with a dot are those of the config that differ."
    parts = ["# Runs compared", markdown_table(header, rest), note, "![curves](curves.png)"]
    return "\n\n".join(parts) + "\n"


def _csv(runs: Sequence[ComparedRun]) -> str:
    """One row per run, values as they are."""
    file, keys = io.StringIO(), differing(runs)
    writer = csv.writer(file, lineterminator="\n")
    compared = _compared(runs)
    every = [(name, key) for name, (key, _) in (compared | COUNTS).items()]
    ratios = [f"{name} (ratio)" for name in compared]
    writer.writerow(["run", "status", *(name for name, _ in every), *ratios, *keys])
    for run in runs:
        values = [run.metrics.get(key) for _, key in every]
        parts = [ratio(run, runs[0], key) for key, _ in compared.values()]
        config = [_shown(run.config.get(key)) for key in keys]
        writer.writerow([str(run.directory), run.status, *values, *parts, *config])
    return file.getvalue()


def read_curves(directory: Path) -> dict[tuple[str, str], list[Point]]:
    """The curves in RUN/tensorboard by (split, tag), ordered by step; those that exist.

    Where a resumed run repeats a step, what was written last counts.
    """
    values: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    began = math.inf
    for split in SPLITS:
        for path in event_files(RunFiles(directory).tensorboard / split):
            for event in events(path):
                began = min(began, event.wall_time)
                for tag, number in _scalars(event):
                    points = values.setdefault((split, tag), {})
                    points[event.step] = (event.wall_time, number)
    return {
        name: [Point(step, when - began, value) for step, (when, value) in sorted(points.items())]
        for name, points in values.items()
    }


def _scalars(event: Any) -> Iterator[tuple[str, float]]:
    from tensorboard.util.tensor_util import make_ndarray

    for value in event.summary.value:
        if value.tag in TAGS and value.HasField("tensor"):
            yield TAGS[value.tag], float(make_ndarray(value.tensor))


def _curves_png(runs: Sequence[ComparedRun]) -> bytes:
    """Loss and accuracy of all runs, by epoch and by time: training dotted, validation solid."""
    from matplotlib.figure import Figure

    from app.evaluation.figures import DOTS_PER_INCH, to_png

    figure = Figure(figsize=(11, 7 + 0.2 * len(runs)), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(len(CURVES), 2, sharex="col", sharey="row")
    for number, run in enumerate(runs):
        curves = read_curves(run.directory)
        name = run.name.replace("$", r"\$")  # no mathematics
        label = name if curves else f"{name} (no curves)"
        label += "" if run.status == "finished" else f" ({run.status})"
        axes[0, 0].plot([], [], color=f"C{number}", label=label)
        for (split, tag), points in curves.items():
            steps, seconds, values = zip(*points, strict=True)
            line = {"color": f"C{number}", "linestyle": SPLITS[split]}
            line["marker"] = "." if split == "validation" or len(points) == 1 else ""
            row = CURVES.index(tag)
            axes[row, 1].plot(seconds, values, **line)
            if run.steps_per_epoch:
                axes[row, 0].plot([step / run.steps_per_epoch for step in steps], values, **line)
    for row, tag in enumerate(CURVES):
        axes[row, 0].set_ylabel(tag)
    axes[-1, 0].set_xlabel("epoch")
    axes[-1, 1].set_xlabel("seconds since the run began")
    axes[0, 0].set_title("validation solid, training dotted", fontsize=9, loc="left")
    figure.legend(loc="outside lower left", fontsize=8, ncols=1)
    return to_png(figure)
