"""What a run directory says of its run: read, checked against a new start, written.

Where its files lie: `app.run_files`."""

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
from app.run_files import RunFiles, list_checkpoints

# With another value of one of these it would be another run. The seed chose the held-out examples.
IDENTITY = {
    "data": None,
    "model": None,
    "training": ("seed", "precision", "imbalance"),
    "optimizer": ("optimizer",),
}
# Of these, keys that may differ: where the data lie, and what "auto" and "skip" came to is saved.
MAY_DIFFER = ("data_dir", "hold", "on_bad")
# Grows when the same files become other examples: other tokens, orientation, transparency.
DATASET_FORMAT = 2


def default_directory(config: Config) -> Path:
    """runs/DATASET-MODEL-DATE-TIME."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(config.data.dataset).stem)
    return Path("runs") / f"{name}-{config.model.model}-{now}"


def find_run(path: Path, resume: bool) -> Config | None:
    """The config of the run in this directory; None if there is none yet.

    A directory that holds no checkpoint, and nothing that is not ours, is that of a start that was
    interrupted: it may be begun anew. With `resume` the config that it was begun with counts.

    Raises UserError if the directory holds a run and `resume` is off, or something else.
    """
    files = RunFiles(path)
    if not path.is_dir():
        return None
    if has_checkpoint(path):
        if not resume:
            raise UserError(f"{path} holds a run already: add --resume, or give another --run-dir")
        if not files.config.exists():
            raise UserError(
                f"{path} holds checkpoints but no {files.config.name}, so what they belong to is "
                "not known: bring the file back, or give another --run-dir"
            )
    else:
        for one in sorted(path.iterdir()):
            # Names that begin with a dot: our lock, and files that were being written.
            if one not in files.left_by_a_start() and not one.name.startswith("."):
                raise UserError(
                    f"{path} is not empty and holds no run (there is {one.name}): give another "
                    "--run-dir"
                )
    return load(files.config, {}) if resume and files.config.exists() else None


def saved_checked(path: Path) -> dict[str, list[tuple[int, str]]]:
    """Which images of a stream the run in this directory could not decode; see `Checked`."""
    try:
        found = json.loads(RunFiles(path).checked_images.read_text(encoding="utf-8"))
        return {key: [(int(row), str(reason)) for row, reason in of] for key, of in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # then they are decoded once more


def has_checkpoint(path: Path) -> bool:
    """Whether a run in this directory has come to a commit point: there is something to lose."""
    return bool(list_checkpoints(RunFiles(path).checkpoints))


def check_same_run(path: Path, old: Config, new: Config) -> None:
    """Raise UserError if `new` is another run than `old`, whose checkpoints are there."""
    for section, keys in IDENTITY.items():
        before, now = getattr(old, section), getattr(new, section)
        for key in keys or type(before).model_fields:
            was, is_now = getattr(before, key), getattr(now, key)
            if was != is_now and key not in MAY_DIFFER:
                raise UserError(
                    f"{path} was trained with {key} = {was!r}, not {is_now!r}: leave {key} out, "
                    "or give another --run-dir"
                )


def check_same_data(path: Path, dataset: dict[str, Any]) -> None:
    """Raise UserError if the run's checkpoints were trained on other data."""
    old = read_dataset(path)["fingerprint"]
    if old != dataset["fingerprint"]:
        raise UserError(
            f"the data has changed since {path} was begun (fingerprint {old}, now "
            f"{dataset['fingerprint']}): bring the old data back, or give another --run-dir"
        )


def saved_hold(path: Path) -> str | None:
    """How the run in this directory held its examples, "memory" or "stream"."""
    return read_dataset(path).get("hold")


def read_dataset(path: Path) -> dict[str, Any]:
    """What the run in this directory was trained on, `Data.describe()`.

    Raises UserError if it cannot be read, or was written by a version of Lockstep that made other
    examples of the same files.
    """
    saved = RunFiles(path).dataset
    try:
        found = json.loads(saved.read_text(encoding="utf-8"))
        if found.get("format", 1) != DATASET_FORMAT:
            raise UserError(
                f"{path} was trained by another version of Lockstep, which reads images and texts "
                f"in another way ({saved.name} has format {found.get('format', 1)}, this version "
                f"reads {DATASET_FORMAT}): use that version, or train anew"
            )
        return {**found, "fingerprint": found["fingerprint"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{saved} cannot be read ({error!r}): the run cannot be used") from None


def keep_run(
    path: Path,
    config: Config,
    dataset: dict[str, Any],
    bad: Sequence[Bad] = (),
    checked: dict[str, list[tuple[int, str]]] | None = None,
) -> None:
    """Write the resolved config, the description of the dataset, the examples that were left out,
    and what decoding every image of a stream found, so that a resumed run need not.

    Raises UserError if the directory cannot be written.
    """
    files = RunFiles(path)
    try:
        files.checkpoints.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in bad]
        if bad:
            write_file(files.bad_examples, "".join(lines))
        if checked:
            text = json.dumps(checked, ensure_ascii=False, indent=1)
            write_file(files.checked_images, text + "\n")
        write_file(files.dataset, json.dumps(dataset, ensure_ascii=False) + "\n")
        write_file(files.config, to_toml(config))
    except OSError as error:
        raise UserError(f"cannot write the run directory {path}: {error}") from None


def write_file(path: Path, text: str) -> None:
    """Write a small file so that it is either the old or the new one, also after a power cut."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    flush_directory(path.parent)


def flush_directory(path: Path) -> None:
    """Have the names in a directory on the disk, as `fsync` has the content of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """The final metrics, as JSON."""
    write_file(RunFiles(path).metrics, json.dumps(metrics, indent=2) + "\n")
