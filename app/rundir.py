"""The run directory: config.toml, dataset.json, bad_examples.jsonl, checked_images.json, logs,
metrics.json, checkpoints, TensorBoard."""

import dataclasses
import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.config import Config
from app.data.bad import Bad
from app.errors import UserError
from app.recipe import load, to_toml

# With another value of one of these it would be another run. The seed chose the held-out examples.
IDENTITY = {"data": None, "model": None, "training": ("seed", "precision", "imbalance")}
# Of these, keys that may differ: where the data lie, and what "auto" and "skip" came to is saved.
MAY_DIFFER = ("data_dir", "hold", "on_bad")
CHECKED = "checked_images.json"


def default_directory(config: Config) -> Path:
    """runs/DATASET-MODEL-DATE-TIME."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(config.data.dataset).stem)
    return Path("runs") / f"{name}-{config.model.model}-{now}"


def saved_hold(path: Path) -> str | None:
    """How the run in this directory held its examples, "memory" or "stream"; None for no run."""
    saved = path / "dataset.json"
    return _read_dataset(saved)["hold"] if saved.exists() else None


def saved_checked(path: Path) -> dict[str, list[tuple[int, str]]]:
    """Which images of a stream the run in this directory could not decode; see `Checked`."""
    try:
        found = json.loads((path / CHECKED).read_text(encoding="utf-8"))
        return {key: [(int(row), str(reason)) for row, reason in of] for key, of in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # then they are decoded once more


def write_checked(path: Path, checked: dict[str, list[tuple[int, str]]]) -> None:
    """Keep what decoding every image of a stream found, so that a resumed run need not."""
    if checked:
        write_file(path / CHECKED, json.dumps(checked, ensure_ascii=False, indent=1) + "\n")


def open_directory(
    path: Path, config: Config, resume: bool, dataset: dict[str, Any], bad: Sequence[Bad] = ()
) -> None:
    """Make the directory; write the resolved config, the description of the dataset, and the
    examples that were left out.

    Raises UserError, before anything is written, if it holds a run and `resume` is off, if it
    holds another run, or if it cannot be written.
    """
    saved = path / "config.toml"
    if saved.exists() and not resume:
        raise UserError(f"{path} holds a run already: add --resume, or give another --run-dir")
    if path.is_dir() and any(path.iterdir()) and not saved.exists():
        raise UserError(f"{path} is not empty and holds no run: give another --run-dir")
    if saved.exists():
        _check_same_run(saved, config)
        _check_same_data(path / "dataset.json", dataset)
    try:
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in bad]
        if bad:
            write_file(path / "bad_examples.jsonl", "".join(lines))
        write_file(path / "dataset.json", json.dumps(dataset, ensure_ascii=False) + "\n")
        write_file(saved, to_toml(config))
    except OSError as error:
        raise UserError(f"cannot write the run directory {path}: {error}") from None


def _check_same_run(saved: Path, config: Config) -> None:
    old = load(saved, {})
    for section, keys in IDENTITY.items():
        before, now = getattr(old, section), getattr(config, section)
        for key in keys or type(before).model_fields:
            was, is_now = getattr(before, key), getattr(now, key)
            if was != is_now and key not in MAY_DIFFER:
                raise UserError(
                    f"{saved.parent} was trained with {key} = {was!r}, not {is_now!r}: resume it "
                    "with its own config (--recipe RUN/config.toml), or give another --run-dir"
                )


def _check_same_data(saved: Path, dataset: dict[str, Any]) -> None:
    old = _read_dataset(saved)["fingerprint"]
    if old != dataset["fingerprint"]:
        raise UserError(
            f"the data has changed since {saved.parent} was begun (fingerprint {old}, now "
            f"{dataset['fingerprint']}): bring the old data back, or give another --run-dir"
        )


def _read_dataset(saved: Path) -> dict[str, Any]:
    try:
        found = json.loads(saved.read_text(encoding="utf-8"))
        return {"fingerprint": found["fingerprint"], "hold": found.get("hold")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{saved} cannot be read ({error}): the run cannot be resumed") from None


def write_file(path: Path, text: str) -> None:
    """Write a small file so that it is either the old or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(partial, path)


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """The final metrics, as JSON."""
    write_file(path / "metrics.json", json.dumps(metrics, indent=2) + "\n")
