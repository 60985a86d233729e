"""What reducers, strategies and other settings cost in accuracy, with paired seeds.

    python -m tests.benchmarks.convergence [--dataset digits] [--seeds 8] [--ranks 4] [--epochs N]
        [--only none topk local:8 local:8+topk optimizer=lamb+global_batch_size=512]
        [--csv FILE] [KEY=VALUE ...]

All trainings share one launch of `--ranks` ranks on this machine over gloo. Each way is compared
with the first one (`none`) seed by seed: the mean difference of the test accuracies in points, and
its 95% interval by Student's t. A CSV that exists is gone on with: what stands in it is not trained
again. The configs are short schedules for a machine without a GPU; KEY=VALUE changes any key. Real
data: --data-dir DIR, or LOCKSTEP_TFDS_DIR.
"""

import argparse
import csv
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from app.distributed.reducers import COMPRESSIONS
from app.distributed.strategies import STRATEGIES

ROUND_STEPS = 8  # of a strategy that has rounds, where its label says nothing else
SCHEDULE = {"schedule": "cosine", "warmup_epochs": "1"}
SGD = {"optimizer": "sgd", "momentum": "0.9", **SCHEDULE}
CONFIGS: dict[str, dict[str, str]] = {
    "digits": {
        **SGD, "dataset": "digits", "model": "cnn", "width": "32", "dropout": "0.25",
        "epochs": "30", "global_batch_size": "64", "learning_rate": "0.05",
        "reference_batch_size": "64",
    },
    "cifar10": {
        **SGD, "dataset": "cifar10", "model": "cnn", "width": "32", "dropout": "0.25",
        "epochs": "5", "global_batch_size": "128", "learning_rate": "0.05",
        "reference_batch_size": "128",
    },
    "clinc150": {
        **SCHEDULE, "optimizer": "adam", "dataset": "clinc150", "model": "bag", "width": "64",
        "dropout": "0.3", "ngrams": "2", "vocabulary_size": "40000", "max_tokens": "64",
        "epochs": "5", "global_batch_size": "64", "learning_rate": "0.01",
        "reference_batch_size": "64",
    },
}  # fmt: skip
COLUMNS = ("dataset", "ranks", "changes", "name", "seed", "accuracy", "loss", "steps", "seconds")
Row = dict[str, Any]


def keys_of(label: str) -> dict[str, str]:
    """The config keys of "reducer", "strategy", "strategy:steps" or "key=value", or of several of
    them with "+" between."""
    keys = {}
    for part in label.split("+"):
        if "=" in part:
            key, value = part.split("=", 1)
            keys[key] = value
            continue
        name, _, steps = part.partition(":")
        if name in COMPRESSIONS and not steps:
            keys["compression"] = name
        elif name in STRATEGIES:
            keys["sync"] = name
            if steps or name in ("local", "delayed"):
                keys["sync_every_steps"] = steps or str(ROUND_STEPS)
        else:
            known = [*COMPRESSIONS, *STRATEGIES]
            raise SystemExit(f"{label}: {name!r} is not one of {known}; steps go with strategies")
    return keys


def main() -> None:
    options = _options()
    if options.rank:
        _train_all(json.loads(options.rank))
        return
    changes = dict(pair.split("=", 1) for pair in options.changes)
    if options.epochs:
        changes["epochs"] = str(options.epochs)
    data_dir = options.data_dir or os.environ.get("LOCKSTEP_TFDS_DIR")
    fixed = {
        "dataset": options.dataset,
        "ranks": str(options.ranks),
        "changes": " ".join(f"{key}={value}" for key, value in sorted(changes.items())),
    }
    done = {(row["name"], int(row["seed"])) for row in _read(options.csv, fixed)}
    wanted = [(label, seed) for seed in range(options.seeds) for label in options.only]
    about = {
        "keys": CONFIGS[options.dataset] | ({"data_dir": data_dir} if data_dir else {}) | changes,
        "todo": [[label, seed] for label, seed in wanted if (label, seed) not in done],
        "of": {label: keys_of(label) for label in options.only},
        "csv": str(options.csv.resolve()),
        "fixed": fixed,
    }
    if about["todo"]:
        _launch(options.ranks, about)
    report(_read(options.csv, fixed), options.only, fixed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    strategies = [name for name in STRATEGIES if name != "every_step"]
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--dataset", choices=list(CONFIGS), default="digits")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--only", nargs="+", default=[*COMPRESSIONS, *strategies])
    parser.add_argument("--csv", type=Path, default=Path("convergence.csv"))
    parser.add_argument("--data-dir")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    return parser.parse_args()


def _launch(ranks: int, about: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.convergence", "--rank", json.dumps(about)]
    if ranks > 1:
        horovodrun = str(Path(sys.executable).parent / "horovodrun")
        command = [horovodrun, "-np", str(ranks), "--gloo", *command]
    subprocess.run(command, check=True, env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ})


def _train_all(about: dict[str, Any]) -> None:
    """On every rank: train what is to do, one after the other; the chief appends to the CSV."""
    import keras

    from app.distributed.devices import connect_configured
    from app.monitor.options import Monitoring
    from app.recipe import load
    from app.train import train

    world = connect_configured()
    for label, seed in about["todo"]:
        with tempfile.TemporaryDirectory() as folder:
            run = world.broadcast(str(Path(folder) / "run"))
            keys = {**about["keys"], **about["of"][label], "seed": str(seed), "run_dir": run}
            began = time.monotonic()
            found = train(load(None, keys), monitoring=Monitoring(quiet=True), world=world)
            seconds = time.monotonic() - began
            world.barrier()  # the chief's folder is everybody's run
        if world.is_chief:
            row = {"name": label, "seed": seed, "accuracy": found["test_accuracy"]}
            row |= {"loss": found["test_loss"], "steps": found["step"], "seconds": seconds}
            _append(Path(about["csv"]), {**about["fixed"], **row})
        keras.backend.clear_session()
        gc.collect()


def _append(path: Path, row: Row) -> None:
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def _read(path: Path, fixed: dict[str, str]) -> list[Row]:
    """The rows of this dataset, number of ranks and changed keys."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if all(row[key] == value for key, value in fixed.items())]


def report(rows: Iterable[Row], labels: list[str], fixed: dict[str, str]) -> None:
    """Print a Markdown table of the rows."""
    of: dict[str, dict[int, float]] = {label: {} for label in labels}
    for row in rows:
        if row["name"] in of:
            of[row["name"]][int(row["seed"])] = 100 * float(row["accuracy"])
    base = of[labels[0]]
    print("\n" + ", ".join(f"{key} {value}" for key, value in fixed.items() if value) + "\n")
    print(f"| name | seeds | test accuracy | minus {labels[0]}, points | 95% interval |")
    print("| --- | --- | --- | --- | --- |")
    for label, found in of.items():
        paired = [found[seed] - base[seed] for seed in sorted(found.keys() & base.keys())]
        if not paired:
            continue
        mean, half = interval(paired)
        between = f"{mean - half:+.2f} to {mean + half:+.2f}" if len(paired) > 1 else ""
        accuracy = statistics.fmean(found.values())
        print(f"| {label} | {len(paired)} | {accuracy:.2f} | {mean:+.2f} | {between} |")


def interval(values: list[float]) -> tuple[float, float]:
    """(the mean, half of its 95% interval by Student's t; infinite for one value)."""
    from scipy.stats import t

    mean, number = statistics.fmean(values), len(values)
    if number < 2:
        return mean, float("inf")
    return mean, float(t.ppf(0.975, number - 1)) * statistics.stdev(values) / number**0.5


if __name__ == "__main__":
    main()
