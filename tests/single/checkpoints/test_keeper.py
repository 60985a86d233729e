"""Checkpoints in the background: when they are written, and which stay."""

import subprocess

import numpy as np
import pytest

from app.checkpoints import keeper
from app.checkpoints.keeper import Keeper
from app.config import Run
from app.errors import UserError
from tests.single.checkpoints.keeping import keep, steps_of


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
