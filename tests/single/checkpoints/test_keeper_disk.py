"""Checkpoints in the background on a disk that does not work: warnings, more tries, and the end."""

import errno
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.checkpoints import keeper
from app.checkpoints.keeper import Keeper
from app.config import Run
from app.errors import UserError
from tests.single.checkpoints.keeping import keep, names, steps_of


@pytest.fixture
def no_pauses(monkeypatch) -> None:
    """Retries without their pauses."""
    monkeypatch.setattr(keeper, "PAUSES_S", (0.0,) * len(keeper.PAUSES_S))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_one_warning_then_training_goes_on_and_so_does_the_next_checkpoint(
    state, tmp_path, disk, no_pauses, caplog, code
) -> None:
    kept = Keeper(tmp_path, Run())
    keep(kept, state, 1)
    kept.wait()
    disk.error = OSError(code, os.strerror(code))
    for step in (2, 3):
        keep(kept, state, step)
        with pytest.raises(UserError):
            kept.wait()
    assert len(disk.steps) > 2 * len(keeper.PAUSES_S)
    assert names(tmp_path) == ["step-00000001"]
    disk.error = None
    keep(kept, state, 4)
    kept.wait()
    assert steps_of(tmp_path) == [1, 4]
    first, *others = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert first.startswith(f"cannot write {tmp_path / 'step-00000002'}: {os.strerror(code)}")
    assert first.endswith("; training goes on")
    assert others == [f"checkpoints can be written again: {tmp_path / 'step-00000004'}"]


def test_a_try_that_fails_is_followed_by_others_after_pauses(
    state, tmp_path, disk, monkeypatch
) -> None:
    monkeypatch.setattr(keeper, "PAUSES_S", (0.01, 0.02))
    kept = Keeper(tmp_path, Run())
    disk.error = OSError(errno.EIO, "Input/output error")
    keep(kept, state, 1)
    with pytest.raises(UserError):
        kept.wait()
    assert 3 <= len(disk.steps) <= 6  # `wait` begins again
    disk.error = None
    kept.wait()  # and so does this one
    assert steps_of(tmp_path) == [1]


def test_a_newer_snapshot_ends_the_pause(state, tmp_path, disk, monkeypatch) -> None:
    monkeypatch.setattr(keeper, "PAUSES_S", (3600.0,))
    kept = Keeper(tmp_path, Run())
    disk.error = OSError(errno.EIO, "Input/output error")
    keep(kept, state, 1)
    assert disk.reached.acquire(timeout=60)
    disk.error = None
    keep(kept, state, 2)
    kept.wait()
    assert disk.steps[-1] == 2 and steps_of(tmp_path) == [2]


def test_the_end_waits_no_pause_out_and_has_a_limit(state, tmp_path, disk, monkeypatch) -> None:
    monkeypatch.setattr(keeper, "PAUSES_S", (3600.0,))
    kept = Keeper(tmp_path, Run())
    disk.error = OSError(errno.EIO, "Input/output error")
    keep(kept, state, 1)
    assert disk.reached.acquire(timeout=60)
    with pytest.raises(UserError, match="Input/output error"):
        kept.wait(limit_s=0.5)
    disk.error = None
    kept.wait()
    assert steps_of(tmp_path) == [1]


def test_the_end_names_the_newest_good_one_and_what_to_do(state, tmp_path, disk, no_pauses) -> None:
    kept = Keeper(tmp_path, Run())
    keep(kept, state, 1)
    kept.wait()
    disk.error = OSError(errno.EIO, "Input/output error")
    keep(kept, state, 2)
    with pytest.raises(UserError) as caught:
        kept.wait()
    good, last = tmp_path / "step-00000001", tmp_path / "step-00000002"
    assert str(caught.value) == (
        f"cannot write the last checkpoint, {last}: Input/output error. The newest good one is "
        f"{good}: once this is put right, go on from it with --resume"
    )
    shutil.rmtree(good)
    with pytest.raises(UserError, match="There is no older one: .* start the run again"):
        kept.wait()


def test_a_mistake_of_ours_ends_no_training(state, tmp_path, disk, no_pauses, caplog) -> None:
    kept = Keeper(tmp_path, Run())
    disk.error = ValueError("odd")
    keep(kept, state, 1)
    with pytest.raises(UserError, match=r"ValueError\('odd'\)"):
        kept.wait()
    assert "Traceback" in caplog.text
    disk.error = None
    keep(kept, state, 2)
    kept.wait()
    assert steps_of(tmp_path) == [2]


def test_old_ones_that_cannot_be_removed_are_a_warning(
    state, tmp_path, monkeypatch, caplog
) -> None:
    kept = Keeper(tmp_path, Run(keep_checkpoints=1))
    keep(kept, state, 1)
    kept.wait()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("app.checkpoints.checkpoint.Checkpoints._remove", fail)
        keep(kept, state, 2)
        kept.wait()
    assert "cannot remove old checkpoints" in caplog.text
    keep(kept, state, 3)
    kept.wait()
    assert steps_of(tmp_path) == [3]


def test_a_directory_that_has_vanished_is_made_again(state, tmp_path, caplog) -> None:
    directory = tmp_path / "run" / "checkpoints"
    kept = Keeper(directory, Run())
    keep(kept, state, 1)
    kept.wait()
    shutil.rmtree(directory.parent)
    keep(kept, state, 2)
    kept.wait()
    assert steps_of(directory) == [2]
    assert not caplog.records


@pytest.fixture
def small_disk(tmp_path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A file system of 256 KiB, and what mounts it again with other options."""
    path = tmp_path / "small"
    path.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs to mount a file system: {done.stderr.strip()}")

    mount("size=256k")
    try:
        yield path, mount
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_is_named_with_what_is_needed(state, small_disk, no_pauses, caplog) -> None:
    directory = small_disk[0] / "checkpoints"
    kept = Keeper(directory, Run())
    keep(kept, state, 1)
    kept.wait()
    content = (small_disk[0] / "other").open("wb", buffering=0)
    with content, pytest.raises(OSError):
        while True:
            content.write(b"x" * 4096)
    keep(kept, state, 2)
    with pytest.raises(UserError) as caught:
        kept.wait()
    assert "No space left on device (0.0 MB are needed, 0.0 MB are free): make room" in str(
        caught.value
    )
    assert "there must be room for 3, and for the best" in caplog.text
    assert names(directory) == ["step-00000001"]
    (small_disk[0] / "other").unlink()
    kept.wait()
    assert steps_of(directory) == [1, 2]
    assert kept.restore_latest(state) == directory / "step-00000002"


def test_a_disk_that_turns_read_only_keeps_what_it_has(
    state, small_disk, no_pauses, caplog
) -> None:
    directory, mount = small_disk[0] / "checkpoints", small_disk[1]
    kept = Keeper(directory, Run())
    keep(kept, state, 1)
    kept.wait()
    mount("remount,ro")
    keep(kept, state, 2)
    with pytest.raises(UserError, match=r"Read-only file system\. The newest good one is .*01:"):
        kept.wait()
    assert caplog.text.count("Read-only file system; training goes on") == 1
    mount("remount,rw")
    keep(kept, state, 3)
    kept.wait()
    assert steps_of(directory) == [1, 3]
