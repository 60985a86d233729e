"""Checkpoints in the background: when, which stay, and what happens if the disk does not work."""

import errno
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from app.checkpoints import files, keeper
from app.checkpoints.keeper import Keeper
from app.config import Run
from app.errors import UserError
from app.state import TrainState


@pytest.fixture
def state(make_classifier) -> TrainState:
    """A state that was not trained."""
    classifier = make_classifier()
    return TrainState(classifier, classifier.optimizer, seed=0)


@pytest.fixture
def no_pauses(monkeypatch) -> None:
    """Retries without their pauses."""
    monkeypatch.setattr(keeper, "PAUSES_S", (0.0,) * len(keeper.PAUSES_S))


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


@pytest.fixture
def disk(monkeypatch) -> Iterator[Disk]:
    """What the writing thread meets; let go at the end."""
    found = Disk(monkeypatch)
    yield found
    found.goes_on.set()


def keep(keeper: Keeper, state: TrainState, step: int, epoch_ends: bool = False) -> float:
    state.step = step
    return keeper.keep(state, {"world_size": 1}, epoch_ends)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def steps_of(directory: Path) -> list[int]:
    return [int(name.removeprefix("step-")) for name in names(directory)]


def test_what_is_kept_is_the_moment_of_the_commit_point(state, tmp_path, disk) -> None:
    kept = Keeper(tmp_path, Run())
    bias = state.model.network.get_layer("hidden").bias
    disk.goes_on.clear()
    assert keep(kept, state, 1) > 0
    assert disk.reached.acquire(timeout=60)
    bias.assign_add(np.ones(5, np.float32))  # training goes on
    state.step = 2
    disk.goes_on.set()
    kept.wait()
    (written,) = kept.written()
    assert written.step == 1 and written.path == tmp_path / "step-00000001"
    assert written.bytes > 0 and kept.written() == []
    assert kept.restore_latest(state) == written.path
    assert state.step == 1
    np.testing.assert_array_equal(bias.numpy(), np.zeros(5, np.float32))


def test_of_those_that_wait_only_the_newest_is_written(state, tmp_path, disk) -> None:
    kept = Keeper(tmp_path, Run(keep_checkpoints=9))
    disk.goes_on.clear()
    keep(kept, state, 1)
    assert disk.reached.acquire(timeout=60)
    for step in (2, 3, 4):
        keep(kept, state, step)
    disk.goes_on.set()
    kept.wait()
    assert [one.step for one in kept.written()] == [1, 4] == disk.steps == steps_of(tmp_path)


def test_every_n_commit_points_and_at_the_end_of_an_epoch(state, tmp_path) -> None:
    kept = Keeper(tmp_path, Run(checkpoint_every_commits=3, keep_checkpoints=9))
    for step in range(1, 9):
        keep(kept, state, step, epoch_ends=step == 5)
        kept.wait()
    assert steps_of(tmp_path) == [3, 5, 8]


def test_every_m_minutes_of_a_clock_that_does_not_jump(state, tmp_path, monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(keeper.time, "monotonic", lambda: now)
    monkeypatch.setattr(keeper.time, "time", lambda: 1e9 * (-1) ** int(now))
    run = Run(checkpoint_every_commits=1000, checkpoint_every_minutes=0.5, keep_checkpoints=9)
    kept = Keeper(tmp_path, run)
    for step, now in enumerate((10.0, 29.0, 31.0, 32.0, 60.0, 61.0), 1):  # noqa: B007
        keep(kept, state, step)
        kept.wait()
    assert steps_of(tmp_path) == [3, 6]


LOSSES = {1: 0.9, 2: 0.5, 3: 0.7, 4: 0.5, 5: float("nan")}


@pytest.mark.parametrize(
    ("best", "left"), [("none", [4, 5]), ("loss", [2, 4, 5]), ("accuracy", [1, 4, 5])]
)
def test_the_best_stays_also_in_a_resumed_run(state, tmp_path, best, left) -> None:
    for step, loss in LOSSES.items():
        kept = Keeper(tmp_path, Run(keep_best=best))  # as if started again
        keep(kept, state, step, epoch_ends=True)
        kept.scored(step, loss, loss if loss < 1 else 0.0)
        kept.wait()
    assert steps_of(tmp_path) == left
    sums = tmp_path / "step-00000004"
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=sums, capture_output=True)
    assert done.returncode == 0 and b"score.json: OK" in done.stdout, done


def test_a_better_one_takes_the_place_of_the_best(state, tmp_path) -> None:
    kept = Keeper(tmp_path, Run(keep_best="loss", keep_checkpoints=1))
    for step, loss in enumerate((0.5, 0.6, 0.4, 0.7), 1):
        keep(kept, state, step)
        kept.scored(step, loss, 0.0)
        kept.wait()
    assert steps_of(tmp_path) == [3, 4]


def test_a_score_waits_for_its_checkpoint(state, tmp_path, disk) -> None:
    kept = Keeper(tmp_path, Run(keep_best="loss"))
    disk.goes_on.clear()
    keep(kept, state, 1)
    kept.scored(1, 0.5, 0.5)
    disk.goes_on.set()
    kept.wait()
    assert kept.checkpoints.find_best() == tmp_path / "step-00000001"


def test_a_changed_score_counts_for_nothing(state, tmp_path, caplog) -> None:
    kept = Keeper(tmp_path, Run(keep_best="loss"))
    keep(kept, state, 1)
    kept.scored(1, 0.5, 0.5)
    kept.wait()
    (score := tmp_path / "step-00000001/score.json").write_text('{"loss": 0.1, "accuracy": 1.0}')
    assert kept.checkpoints.find_best() is None
    with pytest.raises(UserError, match=f"the checksum of {score.name} is wrong"):
        kept.restore_latest(state)


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
