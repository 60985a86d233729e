"""Checkpoints: one directory each, whole or absent.

    checkpoints/step-00001234/    its files: `app.checkpoints.files`

A checkpoint is written under another name, flushed to disk and renamed; before one is removed it
loses its name first. So the process may end at any moment. Knows a `TrainState` and files, but no
workers. Which variables are saved, and why not the others: `app.state.Kind`.
"""

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from app.checkpoints.files import (
    Content,
    Damaged,
    Score,
    read_files,
    read_score,
    write_files,
    write_score,
)
from app.checkpoints.snapshot import Snapshot, take
from app.errors import UserError, suggest
from app.rundir.contents import flush_directory
from app.rundir.files import CHECKPOINT_PREFIX, list_checkpoints
from app.state import POSITION, SAVED, Kind, StateVariable, TrainState, state_variables

LOG = logging.getLogger(__name__)


class Opened(NamedTuple):
    """The checkpoint that a model was restored from, and the SHA-256 of its arrays.

    `position`: see `app.state.POSITION`.
    """

    path: Path
    position: dict[str, int]
    sha256: str


class Checkpoints:
    """The checkpoints of one run directory.

    The newest `keep` stay, and the one with the best validation "loss" or "accuracy" if `best` is
    one of these (of several, the oldest).
    """

    def __init__(self, directory: Path, keep: int, best: str = "none"):
        self.directory = directory
        self.keep = keep
        self.best = best

    def save(self, state: TrainState, about: dict[str, Any]) -> Path:
        """Write the state, and `about` (plain JSON values) beside it; returns the directory.

        Raises UserError if writing fails; nothing half-written is left under a final name.
        """
        try:
            path = self.write(take(state, about))
            self.forget(path)
        except OSError as error:
            raise UserError(
                f"cannot write checkpoint {self.path_of(state.step)}: {error}"
            ) from None
        return path

    def path_of(self, step: int) -> Path:
        """Where the checkpoint of this step is, or would be."""
        return self.directory / f"{CHECKPOINT_PREFIX}{step:08d}"

    def write(self, snapshot: Snapshot) -> Path:
        """Write a snapshot; returns its directory. No other checkpoint is touched.

        Raises OSError if writing fails; nothing half-written is left.
        """
        final = self.path_of(snapshot.step)
        partial = final.with_name(f".{final.name}.partial")
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True)
            flush_directory(self.directory.parent)
        self._clear()
        try:
            partial.mkdir()
            write_files(partial, snapshot)
            if final.exists():
                final.rename(final.with_name(f".{final.name}.old"))
            partial.rename(final)
            flush_directory(self.directory)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._clear()
        return final

    def _clear(self) -> None:
        """Remove what interrupted writes and removals have left."""
        for left in [*self.directory.glob(".*.partial"), *self.directory.glob("*/.*.partial")]:
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        for replaced in self.directory.glob(".*.old"):
            if replaced.with_name(replaced.name[1:].removesuffix(".old")).exists():
                shutil.rmtree(replaced, ignore_errors=True)

    def score(self, step: int, score: Score) -> None:
        """Note how the checkpoint of this step did in validation, if there is one.

        Raises OSError if that cannot be written.
        """
        if (path := self.path_of(step)).is_dir():
            write_score(path, score)

    def list(self) -> list[Path]:
        """The checkpoints there are, oldest first."""
        return list_checkpoints(self.directory)

    def find_best(self) -> Path | None:
        """The checkpoint with the best validation; None if none is to be kept, or has a score."""
        if self.best == "none":
            return None
        scores = {path: read_score(path) for path in self.list()}
        values = {path: getattr(score, self.best) for path, score in scores.items() if score}
        sound = [path for path, value in values.items() if math.isfinite(value)]
        choose = min if self.best == "loss" else max
        return choose(sound, key=values.__getitem__, default=None)

    def forget(self, saved: Path) -> None:
        """Remove all but the newest and the best; also any with a higher number than the one just
        saved, which was damaged when this run was resumed from an earlier one.

        Raises OSError if one cannot be removed.
        """
        found = self.list()
        if saved not in found:  # someone has removed it
            return
        last = found.index(saved)
        for gone in found[last + 1 :]:
            self._remove(gone)
        best = self.find_best()
        for old in found[: max(0, last + 1 - self.keep)]:
            if old != best:
                self._remove(old)

    def _remove(self, path: Path) -> None:
        """Whoever reads it now finds no name, rather than half of its files."""
        nameless = path.with_name(f".{path.name}.partial")
        path.rename(nameless)
        shutil.rmtree(nameless)

    def restore_latest(self, state: TrainState, world_size: int | None = None) -> Path | None:
        """Put the newest sound checkpoint into `state`, in place; None if there is none at all.

        Each rank owes an equal part of what was owed to the gradients: more if there are fewer
        ranks than when it was saved. `world_size`: the ranks there are now; None: as many.

        Raises UserError if all are damaged, or it belongs to another model.
        """
        if not self.list():
            return None
        path, (arrays, meta, _) = self.newest()
        state.move_to(_position(meta))
        if world_size and (before := meta.get("world_size", world_size)) != world_size:
            for entry in state.entries:
                if entry.kind is Kind.SUMMED and entry.path in arrays:
                    arrays[entry.path] = arrays[entry.path] * np.float32(before / world_size)
        _assign(path, arrays, state.entries, meta["optional"])
        for metric in state.model.metrics:
            for variable, value in zip(metric.variables, meta["metrics"][metric.name], strict=True):
                variable.assign(value)
        return path

    def restore_model(self, model: keras.Model, which: str = "newest") -> Opened:
        """Put a checkpoint's model variables into `model`.

        Args:
            model: of the run, built.
            which: "newest" (that is sound), "best", or the name of one.

        Raises UserError if there is none, it is damaged, or it belongs to another model.
        """
        chosen = self.newest() if which == "newest" or not self.list() else self._chosen(which)
        path, (arrays, meta, sha256) = chosen
        entries = state_variables(model)
        wanted = {entry.path for entry in entries}
        of_model = {path: array for path, array in arrays.items() if path in wanted}
        _assign(path, of_model, entries)
        return Opened(path, _position(meta), sha256)

    def newest(self) -> tuple[Path, Content]:
        """The newest sound checkpoint; warns about newer ones that are damaged.

        Raises UserError if there is none, or all are damaged.
        """
        damaged: dict[Path, str] = {}
        seen: set[Path] = set()
        # Listed again after each: a run that goes on writes newer ones and removes old ones.
        while found := [path for path in self.list() if path not in seen]:
            path = found[-1]
            seen.add(path)
            try:
                content = read_files(path)
            except Damaged as reason:
                if path.is_dir():  # not removed while it was read
                    damaged[path] = f"checkpoint {path} is damaged ({reason})"
                continue
            for one in damaged.values():
                LOG.warning("%s: going back to %s; what was learned after it is lost", one, path)
            return path, content
        if damaged:
            first = next(iter(damaged.values()))
            raise UserError(f"{first}, and so are all older ones: the run cannot be opened")
        raise UserError(f"{self.directory} holds no checkpoint: the run has not saved one yet")

    def _chosen(self, which: str) -> tuple[Path, Content]:
        """The best checkpoint, or the one of this name."""
        path = self._find(which)
        try:
            return path, read_files(path)
        except Damaged as reason:
            if not path.is_dir() and which == "best":  # there is a better one now
                return self._chosen(which)
            others = ", ".join(one.name for one in self.list() if one != path) or "none"
            raise UserError(
                f"checkpoint {path} is damaged ({reason}): give another --checkpoint (there are: "
                f"{others})"
            ) from None

    def _find(self, which: str) -> Path:
        paths = {f"{CHECKPOINT_PREFIX}{_step_of(path):08d}": path for path in self.list()}
        if which == "best" and (best := self.find_best()):
            return best
        if which in paths:
            return paths[which]
        if which == "best":
            why = "was trained without --keep-best" if self.best == "none" else "has no score yet"
            raise UserError(
                f"--checkpoint best: the run in {self.directory.parent} {why}; there are: "
                f"{', '.join(['newest', *paths])}"
            )
        best_too = ["best"] if self.find_best() else []
        raise UserError(
            f"--checkpoint {which}: {self.directory} has no such checkpoint: "
            f"{suggest(which, [*paths, 'newest', *best_too])}"
        )


def _step_of(path: Path) -> int:
    return int("".join(filter(str.isdigit, path.name)))


def _position(meta: dict[str, Any]) -> dict[str, int]:
    return {name: meta[name] for name in POSITION}


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
