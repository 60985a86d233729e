"""A run directory on a disk that is full for the moment."""

import errno
import os

import pytest

from app.errors import UserError
from app.rundir import lock as run_lock
from app.rundir import patience
from app.rundir.lock import RunLock
from app.rundir.patience import patiently


@pytest.fixture
def full(monkeypatch) -> list[int]:
    """A disk that takes nothing as often as this list says."""
    times, write = [0], os.pwrite

    def pwrite(*arguments) -> int:
        if times[0]:
            times[0] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)

    monkeypatch.setattr(run_lock.os, "pwrite", pwrite)
    monkeypatch.setattr(patience, "PAUSE_S", 0.01)
    return times


def test_who_is_started_again_waits_for_room_and_says_so(tmp_path, full, caplog) -> None:
    full[0] = 3
    lock = RunLock(tmp_path / "run")
    lock.acquire(from_the_dead=True)
    assert not full[0] and caplog.text.count("No space left on device; it is tried again") == 1
    with pytest.raises(UserError, match="is in use"):
        RunLock(tmp_path / "run").acquire()
    lock.release()
    assert not (tmp_path / "run").exists()


def test_a_new_run_on_a_full_disk_is_refused_at_once(tmp_path, full) -> None:
    full[0] = 1
    with pytest.raises(UserError, match=f"{tmp_path / 'run'}: .* No space left on device"):
        RunLock(tmp_path / "run").acquire()
    assert not (tmp_path / "run").exists()


def test_patience_ends(tmp_path, full) -> None:
    def write() -> None:
        raise OSError(errno.EROFS, "read-only")

    with pytest.raises(UserError, match=f"cannot write the run directory {tmp_path}.*read-only"):
        patiently(write, tmp_path, 0.05)
