"""Keeps a run's checkpoints in the background: training waits for a copy in memory, not for a disk.

One thread writes one snapshot at a time; of those that wait for it only the newest is written.
Knows no worker.
"""

import contextlib
import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from app.checkpoints.checkpoint import Checkpoints
from app.checkpoints.files import Score
from app.checkpoints.mirror import has_room
from app.checkpoints.snapshot import Snapshot, take
from app.config import Run
from app.errors import UserError
from app.state import TrainState

LOG = logging.getLogger(__name__)
PAUSES_S = (1.0, 5.0, 15.0, 30.0, 60.0)  # before the second and later tries to write a snapshot
FULL = (errno.ENOSPC, errno.EDQUOT)


class Written(NamedTuple):
    """A checkpoint that is on the disk, and how long its files took."""

    step: int
    path: Path
    seconds: float
    bytes: int


class Keeper:
    """Takes snapshots of a run when they are due, and has a thread write them.

    The chief's. What goes wrong with the disk is a warning, and training goes on: writing is tried
    six times within two minutes, or until a newer snapshot takes its place. Only `wait` raises.

    Args:
        directory: of the checkpoints; created if it is missing.
        run: how often to keep one, and which stay.
        mirror: where to keep a commit at which none is due, until the next; see mirror.py.
    """

    def __init__(self, directory: Path, run: Run, mirror: Path | None = None):
        self.checkpoints = Checkpoints(directory, run.keep_checkpoints, run.keep_best)
        self._mirror = Checkpoints(mirror, 1) if mirror else None
        self._every = run.checkpoint_every_commits
        self._every_s = 60 * (run.checkpoint_every_minutes or float("inf"))
        self._commits, self._last = 0, time.monotonic()
        self._thread: threading.Thread | None = None
        # What follows is shared with the thread, under this lock.
        self._changed = threading.Condition()
        self._next: Snapshot | None = None  # handed over, and not on the disk
        self._tries = 0  # that are left for it
        self._problem = ""  # of the last try
        self._scores: dict[int, Score] = {}  # by step; handed over, and not on the disk
        self._written: list[Written] = []
        # The thread's own.
        self._newest: Path | None = None  # that it has written
        self._warned: set[tuple[str, object]] = set()  # (what, why) since all went well

    def keep(self, state: TrainState, about: dict[str, Any], epoch_ends: bool) -> float:
        """At a commit point: if a checkpoint is due, take a snapshot for the thread to write.

        `about`: plain JSON values, kept beside the state. Returns the seconds that this took.
        """
        began = time.monotonic()
        self._commits += 1
        due = self._commits >= self._every or began - self._last >= self._every_s
        if not due and not epoch_ends:
            self._keep_aside(state, about)
            return 0.0
        self._commits, self._last = 0, began
        with self._changed:
            self._next = None  # one that waits is not needed: there are never more than two
        snapshot = take(state, about)
        with self._changed:
            self._next, self._tries = snapshot, 1 + len(PAUSES_S)
            self._wake()
        return time.monotonic() - began

    def _keep_aside(self, state: TrainState, about: dict[str, Any]) -> None:
        """Keep a commit in the mirror, at once: it is memory. That this fails costs nothing."""
        if self._mirror is None:
            return
        snapshot = take(state, about)
        if has_room(snapshot.nbytes):
            with contextlib.suppress(OSError):
                self._mirror.forget(self._mirror.write(snapshot))

    def scored(self, step: int, loss: float, accuracy: float) -> None:
        """How the model of the checkpoint of this step did in validation, for `keep_best`."""
        with self._changed:
            self._scores[step] = Score(float(loss), float(accuracy))
            self._wake()

    def written(self) -> list[Written]:
        """What has come to the disk since the last call."""
        with self._changed:
            new, self._written = self._written, []
        return new

    def wait(self, limit_s: float | None = None) -> None:
        """Until everything handed over is on the disk; what could not be written is tried again.

        `limit_s`: the longest to wait, where there is no time for all tries.

        Raises UserError if the newest snapshot could not be written.
        """
        with self._changed:
            self._tries = 1 + len(PAUSES_S)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._has_work(), limit_s)
            snapshot, problem = self._next, self._problem or "it takes too long"
        if snapshot:
            raise UserError(
                f"cannot write the last checkpoint, {self.checkpoints.path_of(snapshot.step)}: "
                f"{problem}. {self._what_is_left()}"
            )

    def restore_latest(self, state: TrainState, world_size: int | None = None) -> Path | None:
        """See `Checkpoints.restore_latest`; from the mirror, if that has a newer one."""
        if self._mirror is not None:
            aside, kept = self._mirror.list(), self.checkpoints.list()
            if aside and (not kept or aside[-1].name > kept[-1].name):
                with contextlib.suppress(UserError):  # it is damaged
                    return self._mirror.restore_latest(state, world_size)
        return self.checkpoints.restore_latest(state, world_size)

    def _wake(self) -> None:
        if self._thread is None:
            # A daemon: the process may end at any moment, and what is on the disk stays sound.
            self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _has_work(self) -> bool:
        return bool(self._next and self._tries) or bool(self._due_scores())

    def _due_scores(self) -> dict[int, Score]:
        """Those of checkpoints that do not have to be written first."""
        step = self._next.step if self._next else None
        return {one: score for one, score in self._scores.items() if one != step}

    def _work(self) -> None:
        """What the thread does."""
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                snapshot = self._next if self._tries else None
            if snapshot:
                self._write(snapshot)
            with self._changed:
                scores = self._due_scores()
            for step, score in scores.items():
                self._carefully("note a score", self.checkpoints.score, step, score)
            if self._newest:
                self._carefully("remove old checkpoints", self.checkpoints.forget, self._newest)
            with self._changed:
                for step in scores:
                    self._scores.pop(step)
                self._changed.notify_all()

    def _write(self, snapshot: Snapshot) -> None:
        """One try; if it fails, a pause, which ends when there is a newer snapshot."""
        began = time.monotonic()
        try:
            path = self.checkpoints.write(snapshot)
        except Exception as error:
            problem = self._problem_of(snapshot, error)
            self._warn(f"cannot write {self.checkpoints.path_of(snapshot.step)}", error, problem)
            self._pause(snapshot, problem)
            return
        if self._warned:
            LOG.warning("checkpoints can be written again: %s", path)
            self._warned.clear()
        seconds = time.monotonic() - began
        with self._changed:
            self._newest, self._problem = path, ""
            self._written.append(Written(snapshot.step, path, seconds, snapshot.nbytes))
            if self._next is snapshot:
                self._next = None

    def _pause(self, snapshot: Snapshot, problem: str) -> None:
        with self._changed:
            self._problem = problem
            if self._next is not snapshot:
                return
            self._tries -= 1
            left = self._tries
            self._changed.notify_all()
            if left:
                self._changed.wait_for(
                    lambda: self._next is not snapshot or self._tries != left, PAUSES_S[-left]
                )

    def _carefully(self, what: str, do: Callable[..., None], *arguments: Any) -> None:
        """Do what may fail without a loss."""
        try:
            do(*arguments)
        except Exception as error:
            self._warn(f"cannot {what} in {self.checkpoints.directory}", error, str(error))

    def _warn(self, what: str, error: Exception, problem: str) -> None:
        """Say what is wrong, once for each kind of trouble until checkpoints are written again."""
        kind = (type(error).__name__, getattr(error, "errno", None))
        if kind not in self._warned:
            self._warned.add(kind)
            known = isinstance(error, OSError)
            LOG.warning("%s: %s; training goes on", what, problem, exc_info=not known)

    def _problem_of(self, snapshot: Snapshot, error: Exception) -> str:
        if not isinstance(error, OSError):
            return repr(error)
        reason = error.strerror or str(error)
        if error.errno not in FULL:
            return reason
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(self.checkpoints.directory).free
            reason += (
                f" ({snapshot.nbytes / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free)"
            )
        return (
            f"{reason}: make room; a checkpoint is written before an older one is removed, so "
            f"there must be room for {self.checkpoints.keep + 1}, and for the best"
        )

    def _what_is_left(self) -> str:
        """Which checkpoint the run can go on from."""
        try:
            path, _ = self.checkpoints.newest()
        except UserError:
            return "There is no older one: once this is put right, start the run again"
        return f"The newest good one is {path}: once this is put right, go on from it with --resume"
