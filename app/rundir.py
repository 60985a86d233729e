"""The run directory: config.toml, dataset.json, log.txt, metrics.json, checkpoints, TensorBoard."""

import datetime
import json
import os
from pathlib import Path
from typing import Any

from app.config import Config, load, to_toml
from app.errors import UserError

# A run may be resumed with other values than these of [data] and [model] only as a new run.
IDENTITY = ("data", "model")


def default_directory(config: Config) -> Path:
    """runs/DATASET-MODEL-DATE-TIME."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(config.data.dataset).stem)
    return Path("runs") / f"{name}-{config.model.model}-{now}"


def open_directory(path: Path, config: Config, resume: bool, dataset: dict[str, Any]) -> None:
    """Make the directory; write the resolved config and the description of the dataset.

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
    try:
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_file(path / "dataset.json", json.dumps(dataset, ensure_ascii=False) + "\n")
        write_file(saved, to_toml(config))
    except OSError as error:
        raise UserError(f"cannot write the run directory {path}: {error.strerror}") from None


def _check_same_run(saved: Path, config: Config) -> None:
    old = load(saved, {})
    for section in IDENTITY:
        before, now = getattr(old, section), getattr(config, section)
        for key in type(before).model_fields:
            was, is_now = getattr(before, key), getattr(now, key)
            if was != is_now and key != "data_dir":
                raise UserError(
                    f"{saved.parent} was trained with {key} = {was!r}, not {is_now!r}: resume it "
                    "with its own config (--recipe RUN/config.toml), or give another --run-dir"
                )


def write_file(path: Path, text: str) -> None:
    """Write a small file so that it is either the old or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """The final metrics, as JSON."""
    write_file(path / "metrics.json", json.dumps(metrics, indent=2) + "\n")
