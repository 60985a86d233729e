"""Checkpoints: one directory each, whole or absent.

    checkpoints/step-00001234/
        state.safetensors   every saved variable, keyed by its path
        state.json          where the run is, in which world, the sums behind the metrics of the
                            epoch so far, and the SHA-256 of the arrays

A checkpoint is written under another name, flushed to disk and renamed. Knows a `TrainState` and
files, but no workers. Which variables are saved, and why not the others: `app.state.Kind`.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors
import safetensors.numpy

from app.errors import UserError
from app.run_files import CHECKPOINT_PREFIX, STATE, list_checkpoints
from app.rundir import flush_directory
from app.state import POSITION, SAVED, StateVariable, TrainState, state_variables

LOG = logging.getLogger(__name__)
FORMAT = 2


class Damaged(Exception):  # noqa: N818 (what it is, not what went wrong with us)
    """A checkpoint that cannot be read, with the reason."""


class Checkpoints:
    """The checkpoints of one run directory; only the newest `keep` stay."""

    def __init__(self, directory: Path, keep: int):
        self.directory = directory
        self.keep = keep

    def save(self, state: TrainState, about: dict[str, Any]) -> Path:
        """Write the state, and `about` (plain JSON values) beside it; returns the directory.

        Raises UserError if writing fails; nothing half-written is left under a final name.
        """
        final = self.directory / f"{CHECKPOINT_PREFIX}{state.step:08d}"
        partial = self.directory / f".{final.name}.partial"
        arrays = {e.path: np.asarray(e.variable.numpy()) for e in state.entries if e.kind in SAVED}
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            content = safetensors.numpy.save(arrays)
            meta = {"format": FORMAT, **state.position, "metrics": _sums(state.model), **about}
            meta["optional"] = [e.path for e in state.entries if e.path in arrays and e.optional]
            meta["sha256"] = hashlib.sha256(content).hexdigest()
            _write(partial / "state.safetensors", content)
            _write(partial / STATE, json.dumps(meta, indent=2).encode())
            flush_directory(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            flush_directory(self.directory)
            self._forget(final)
        except OSError as error:
            raise UserError(f"cannot write checkpoint {final}: {error}") from None
        return final

    def list(self) -> list[Path]:
        """The checkpoints there are, oldest first."""
        return list_checkpoints(self.directory)

    def _forget(self, saved: Path) -> None:
        """Remove all but the newest; also any with a higher number than the one just saved, which
        was damaged when this run was resumed from an earlier one."""
        found = self.list()
        last = found.index(saved)
        for old in [*found[: max(0, last + 1 - self.keep)], *found[last + 1 :]]:
            shutil.rmtree(old)

    def restore_latest(self, state: TrainState) -> Path | None:
        """Put the newest sound checkpoint into `state`, in place; None if there is none at all.

        Raises UserError if all are damaged, or it belongs to another model.
        """
        if not self.list():
            return None
        path, arrays, meta = self._newest()
        _assign(path, arrays, state.entries, meta["optional"])
        for metric in state.model.metrics:
            for variable, value in zip(metric.variables, meta["metrics"][metric.name], strict=True):
                variable.assign(value)
        state.move_to(_position(meta))
        return path

    def restore_model(self, model: keras.Model) -> tuple[Path, dict[str, int]]:
        """Put the newest sound checkpoint's model variables into `model`; its path and position.

        Raises UserError if there is none, all are damaged, or it belongs to another model.
        """
        if not self.list():
            raise UserError(f"{self.directory} holds no checkpoint: the run has not saved one yet")
        path, arrays, meta = self._newest()
        entries = state_variables(model)
        wanted = {entry.path for entry in entries}
        of_model = {path: array for path, array in arrays.items() if path in wanted}
        _assign(path, of_model, entries)
        return path, _position(meta)

    def _newest(self) -> tuple[Path, dict[str, np.ndarray], dict[str, Any]]:
        """(path, arrays by path, what `state.json` says) of the newest sound checkpoint; warns
        about newer ones that are damaged."""
        damaged: list[str] = []
        for path in reversed(self.list()):
            try:
                arrays, meta = _read(path)
            except Damaged as reason:
                damaged.append(f"checkpoint {path} is damaged ({reason})")
                continue
            for one in damaged:
                LOG.warning("%s: going back to %s; what was learned after it is lost", one, path)
            return path, arrays, meta
        raise UserError(f"{damaged[0]}, and so are all older ones: the run cannot be opened")


def _sums(model: keras.Model) -> dict[str, list[Any]]:
    """The state of each metric, by its name."""
    return {m.name: [v.numpy().tolist() for v in m.variables] for m in model.metrics}


def _position(meta: dict[str, Any]) -> dict[str, int]:
    return {name: int(meta[name]) for name in POSITION}


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays by path, what `state.json` says) of a checkpoint, verified.

    Raises Damaged if it is not whole, UserError if another version of this code wrote it.
    """
    try:
        meta = json.loads((path / STATE).read_text())
        content = (path / "state.safetensors").read_bytes()
        if meta["format"] != FORMAT:
            raise UserError(f"{path} has format {meta['format']}, but this code reads {FORMAT}")
        if hashlib.sha256(content).hexdigest() != meta["sha256"]:
            raise ValueError("its checksum is wrong")
        checked = {**_position(meta), "metrics": dict(meta["metrics"])}
        checked["optional"] = list(meta["optional"])
        return safetensors.numpy.load(content), {**meta, **checked}
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise Damaged(str(error)) from None


def _assign(
    path: Path,
    arrays: dict[str, np.ndarray],
    found: Sequence[StateVariable],
    optional: Sequence[str] = (),
) -> None:
    entries = {e.path: e.variable for e in found if e.kind in SAVED}
    # A run may be resumed with another compression: what it knows is found out within a step.
    may_differ = {*optional, *(e.path for e in found if e.optional)}
    differing = {
        name
        for name in entries.keys() | arrays.keys()
        if name not in entries
        or name not in arrays
        or tuple(entries[name].shape) != arrays[name].shape
    }
    if wrong := sorted(differing - may_differ):
        raise UserError(
            f"{path} belongs to another model or optimizer: '{wrong[0]}' is missing or has "
            f"another shape ({len(wrong)} such variables). Resume with the run's own config"
        )
    for name in entries.keys() - differing:
        entries[name].assign(arrays[name])


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
