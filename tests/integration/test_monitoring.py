"""Runs as they are watched: logs of all ranks, output for scripts, profile and timeline."""

import json
import re
import shutil

import pytest

from tests.integration.launching import run

DIGITS = ["train", "--recipe", "launch/recipes/digits.toml", "--epochs", "1"]

# Found by every Python of the run: makes each step say what every rank would say.
NOISE = """
import logging
import os
import warnings

from app.distributed.launcher import read_launcher
from app.monitor.timing import Clock

tick = Clock.tick


def noisy(self, *arguments, **options):
    warnings.warn("a warning of Python", RuntimeWarning)
    logging.getLogger("tensorflow").warning("a warning of TensorFlow")
    print("printed")
    os.write(1, b"printed by a library\\n")
    if read_launcher().rank == 1:
        logging.getLogger("absl").error("an error of rank 1")
    return tick(self, *arguments, **options)


Clock.tick = noisy
"""


@pytest.mark.parametrize("transport", ["gloo", pytest.param("mpi", marks=pytest.mark.full_matrix)])
def test_two_ranks_log_apart_warn_once_and_give_a_script_one_object(tmp_path, transport):
    if transport == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed")
    (tmp_path / "sitecustomize.py").write_text(NOISE)
    directory = tmp_path / "run"
    watch = ["--json", "--profile", "3:5@all", "--timeline", "--run-dir", str(directory)]
    done = run(
        ["launch/local.sh", "-n", "2", f"--{transport}", *DIGITS, *watch],
        timeout_s=280,
        PYTHONPATH=str(tmp_path),
    )
    assert done.code == 0, done.all
    result = json.loads(done.out)
    assert (result["run_dir"], result["world_size"]) == (str(directory), 2), done.all
    newest = directory / "checkpoints" / f"step-{result['step']:08d}"
    assert result["checkpoint"] == str(newest), done.all
    for text in ("a warning of Python", "a warning of TensorFlow", "Lockstep trains"):
        assert done.err.count(text) == 1, done.all
    assert "an error of rank 1" in done.err, done.all
    assert "Traceback" not in done.err, done.all

    logs = [(directory / "logs" / f"rank-00{rank}.log").read_text() for rank in (0, 1)]
    for rank, log in enumerate(logs):
        assert f" rank {rank} INFO lockstep: rank {rank} of 2 over {transport}" in log, log
        assert f" rank {1 - rank} " not in log, log
        assert log.count("a warning of Python") == log.count("a warning of TensorFlow") == 1, log
        assert re.search(r"step 20  loss .* input [\d.]+ ms .* memory \d+ MB", log), log
    assert len({re.search(r"process (\d+)", log)[1] for log in logs}) == 2

    profiles = sorted(path.name for path in (directory / "tensorboard").rglob("*.xplane.pb"))
    assert profiles == ["rank-000.xplane.pb", "rank-001.xplane.pb"]
    timeline = json.loads((directory / "timeline.json").read_text())
    names = {row["args"].get("name", "") for row in timeline if row.get("name") == "process_name"}
    assert any(".bucket.0" in name for name in names), names
    assert any(row.get("name") == "NEGOTIATE_ALLREDUCE" for row in timeline)


@pytest.mark.full_matrix
def test_a_quiet_run_prints_nothing_and_leaves_everything_behind(tmp_path):
    watch = ["--quiet", "--profile", "900:910", "--run-dir", str(tmp_path / "run")]
    done = run(["launch/local.sh", "-n", "2", *DIGITS, *watch], timeout_s=250)
    assert (done.code, done.out, done.err) == (0, "", ""), done.all
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epoch"] == 1
    log = (tmp_path / "run" / "logs" / "rank-000.log").read_text()
    assert "test accuracy" in log
    assert "--profile 900:910@0 recorded nothing: this training covered steps 1 to 21" in log
    assert "quiet =" not in (tmp_path / "run" / "config.toml").read_text()
