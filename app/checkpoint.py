"""Checkpoints: one directory each, whole or absent.

    checkpoints/epoch-0003/
        state.safetensors   every saved variable, keyed by its path
        state.json          where the run is, in which world, and the SHA-256 of the arrays

A checkpoint is written under another name, flushed to disk and renamed. Knows a `TrainState` and
files, nothing of workers. Which variables are saved, and why not the others: `app.state.Kind`.
"""

import hashlib
import json
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
from app.state import POSITION, Kind, StateVariable, TrainState, state_variables

FORMAT = 1
SAVED = (Kind.REPLICATED, Kind.AVERAGED)


class Checkpoints:
    """The checkpoints of one run directory; the newest `keep` are kept."""

    def __init__(self, directory: Path, keep: int):
        self.directory = directory
        self.keep = keep

    def save(self, state: TrainState, about: dict[str, Any]) -> Path:
        """Write the state, and `about` (plain JSON values) beside it; returns its directory.

        Raises UserError if the disk refuses, with nothing half-written left under a final name.
        """
        final = self.directory / f"epoch-{state.epoch:04d}"
        partial = self.directory / f".{final.name}.partial"
        arrays = {e.path: np.asarray(e.variable.numpy()) for e in state.entries if e.kind in SAVED}
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            content = safetensors.numpy.save(arrays)
            meta = {"format": FORMAT, **state.position, **about}
            meta["sha256"] = hashlib.sha256(content).hexdigest()
            _write(partial / "state.safetensors", content)
            _write(partial / "state.json", json.dumps(meta, indent=2).encode())
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            _flush(self.directory)
            for old in self.list()[: -self.keep]:
                shutil.rmtree(old)
        except OSError as error:
            raise UserError(f"cannot write checkpoint {final}: {error}") from None
        return final

    def list(self) -> list[Path]:
        """The checkpoints there are, oldest first."""
        found = [path for path in self.directory.glob("epoch-*") if path.name[6:].isdigit()]
        return sorted(found, key=lambda path: int(path.name[6:]))

    def restore_latest(self, state: TrainState) -> Path | None:
        """Put the newest checkpoint into `state`, in place; None if there is none.

        Raises UserError if it is damaged or belongs to another model.
        """
        found = self.list()
        if not found:
            return None
        arrays, position = self._read(found[-1])
        _assign(found[-1], arrays, state.entries)
        state.move_to(position)
        return found[-1]

    def restore_model(self, model: keras.Model) -> tuple[Path, dict[str, int]]:
        """Put the newest checkpoint's model variables into `model`; its path and position.

        Raises UserError if there is none, or it is damaged or belongs to another model.
        """
        found = self.list()
        if not found:
            raise UserError(f"{self.directory} holds no checkpoint: the run has not ended an epoch")
        arrays, position = self._read(found[-1])
        entries = state_variables(model)
        wanted = {entry.path for entry in entries}
        of_model = {path: array for path, array in arrays.items() if path in wanted}
        _assign(found[-1], of_model, entries)
        return found[-1], position

    def _read(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """(arrays by path, position) of a checkpoint, verified."""
        try:
            meta = json.loads((path / "state.json").read_text())
            content = (path / "state.safetensors").read_bytes()
            if meta["format"] != FORMAT:
                raise UserError(f"{path} has format {meta['format']}, this code reads {FORMAT}")
            if hashlib.sha256(content).hexdigest() != meta["sha256"]:
                raise ValueError("its checksum is wrong")
            position = {name: int(meta[name]) for name in POSITION}
            return safetensors.numpy.load(content), position
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise UserError(
                f"checkpoint {path} is damaged ({error}): remove that directory to resume from "
                "the one before it"
            ) from None


def _assign(path: Path, arrays: dict[str, np.ndarray], found: Sequence[StateVariable]) -> None:
    entries = {e.path: e.variable for e in found if e.kind in SAVED}
    differing = sorted(set(entries) ^ set(arrays)) or sorted(
        name for name, variable in entries.items() if tuple(variable.shape) != arrays[name].shape
    )
    if differing:
        raise UserError(
            f"{path} belongs to another model or optimizer: '{differing[0]}' is missing or has "
            f"another shape ({len(differing)} such variables). Resume with the run's own config"
        )
    for name, variable in entries.items():
        variable.assign(arrays[name])


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
