"""A disk that waits and fails as a test says, and what is kept on it."""

import threading
from pathlib import Path

from app.checkpoints import files
from app.checkpoints.keeper import Keeper
from app.state import TrainState


class Disk:
    """Stands for `write_files`: waits where a test says so, and fails while it says so."""

    def __init__(self, monkeypatch):
        self.goes_on, self.reached = threading.Event(), threading.Semaphore(0)
        self.goes_on.set()
        self.error: BaseException | None = None
        self.steps: list[int] = []
        self._write = files.write_files
        monkeypatch.setattr("app.checkpoints.checkpoint.write_files", self.write)

    def write(self, directory, snapshot) -> None:
        self.steps.append(snapshot.step)
        self.reached.release()
        assert self.goes_on.wait(60)
        if self.error:
            raise self.error
        self._write(directory, snapshot)


def keep(keeper: Keeper, state: TrainState, step: int, epoch_ends: bool = False) -> float:
    state.step = step
    return keeper.keep(state, {"world_size": 1}, epoch_ends)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def steps_of(directory: Path) -> list[int]:
    return [int(name.removeprefix("step-")) for name in names(directory)]
