"""What a run directory says about its run: read, checked against a new start, written.

Where its files are: `app.rundir.files`."""

import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.config import Config
from app.data.bad import Bad
from app.data.plan import DataPlan, OtherFormatError, read_plan
from app.errors import UserError
from app.recipe import load, to_toml
from app.rundir.files import RunFiles, list_checkpoints
from app.rundir.patience import patiently

# A different value of one of these makes a different run. The seed chose the held-out examples.
IDENTITY = {
    "data": None,
    "model": None,
    "training": ("seed", "precision", "imbalance"),
    "optimizer": ("optimizer",),
    "fine_tuning": ("freeze", "unfreeze_epoch"),
}
# Keys among these that may differ: where the data is, and choices whose outcome is in the plan.
MAY_DIFFER = ("data_dir", "hold", "on_bad")


def default_directory(config: Config) -> Path:
    """runs/DATASET-MODEL-DATE-TIME."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(config.data.dataset).stem)
    return Path("runs") / f"{name}-{config.model.model}-{now}"


def find_run(path: Path, resume: bool) -> Config | None:
    """The config of the run in this directory; None if there is none yet.

    A directory that holds no checkpoint, and only files of ours, is left from an interrupted start:
    the run may start over there. With `resume`, the config that it was started with counts.

    Raises UserError if the directory holds a run and `resume` is off, or if it holds other files.
    """
    files = RunFiles(path)
    if not path.is_dir():
        return None
    if has_checkpoint(path):
        if not resume:
            raise UserError(f"{path} already holds a run: add --resume, or give another --run-dir")
        if not files.config.exists():
            raise UserError(
                f"{path} holds checkpoints but no {files.config.name}, so their config is not "
                "known: restore the file, or give another --run-dir"
            )
    else:
        for one in sorted(path.iterdir()):
            # Names that begin with a dot: our lock, and files that were still being written.
            if one not in files.left_by_a_start() and not one.name.startswith("."):
                raise UserError(
                    f"{path} is not empty and holds no run (it contains {one.name}): give another "
                    "--run-dir"
                )
    return load(files.config, {}) if resume and files.config.exists() else None


def has_checkpoint(path: Path) -> bool:
    """Whether a run in this directory has reached a commit point, so there is something to lose."""
    return bool(list_checkpoints(RunFiles(path).checkpoints))


def check_same_run(path: Path, old: Config, new: Config) -> None:
    """Raise UserError if `new` is a different run from `old`, whose checkpoints are there."""
    for section, keys in IDENTITY.items():
        before, now = getattr(old, section), getattr(new, section)
        for key in keys or type(before).model_fields:
            was, is_now = getattr(before, key), getattr(now, key)
            if was != is_now and key not in MAY_DIFFER:
                raise UserError(
                    f"{path} was trained with {key} = {was!r}, not {is_now!r}: leave {key} out, "
                    "or give another --run-dir"
                )


def check_same_data(path: Path, plan: DataPlan, fingerprint: str) -> None:
    """Raise UserError if the data is not what the plan of the run in `path` was made for."""
    if fingerprint != plan.fingerprint:
        raise UserError(
            f"the data has changed since {path} was started (fingerprint {plan.fingerprint}, now "
            f"{fingerprint}): restore the old data, or give another --run-dir"
        )


def saved_plan(path: Path) -> DataPlan:
    """What was decided about the data of the run in this directory.

    Raises UserError if it cannot be read, or was written by a version of Lockstep that made
    different examples from the same files.
    """
    file = RunFiles(path).data_plan
    try:
        return read_plan(file)
    except (OtherFormatError, FileNotFoundError) as error:
        raise UserError(
            f"{path} was trained by another version of Lockstep, which treats data differently "
            f"({file}: {getattr(error, 'strerror', None) or error}): use that version, or train "
            "again in another --run-dir"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}), so the run cannot be used") from None


def keep_run(
    path: Path, config: Config, plan: DataPlan, bad: Sequence[Bad] = (), patience_s: float = 0.0
) -> None:
    """Write the resolved config, what was decided about the data, and the examples that were left
    out.

    Raises UserError if the directory cannot be written, for `patience_s`.
    """
    files = RunFiles(path)

    def write() -> None:
        files.checkpoints.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in bad]
        if bad:
            write_file(files.bad_examples, "".join(lines))
        plan.save(files.data_plan, write_file)
        write_file(files.config, to_toml(config))

    patiently(write, path, patience_s)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a small file so that it is either the old or the new one, even after a power cut."""
    partial = path.with_name(f".{path.name}.partial")
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    flush_directory(path.parent)


def flush_directory(path: Path) -> None:
    """Flush the names in a directory to disk, as `fsync` does the content of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """The final metrics, as JSON. Raises UserError if they cannot be written."""
    file = RunFiles(path).metrics
    try:
        write_file(file, json.dumps(metrics, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from None
