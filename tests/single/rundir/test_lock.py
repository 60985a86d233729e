"""One run at a time in a directory."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import UserError
from app.rundir import lock as run_lock
from app.rundir.lock import RunLock
from tests.integration.launching import ROOT

HOLDER = """
import sys, time
from pathlib import Path
from app.rundir.lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Beats are a hundredth of theirs."""
    monkeypatch.setattr(run_lock, "BEAT_S", 0.05)


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def of_another_host(path: Path, beat: int = 0) -> None:
    (path / ".lock").write_text(json.dumps({"host": "gpu7", "pid": 12, "beat": beat}))


def test_a_second_run_is_refused_and_the_holder_named(tmp_path: Path, holder) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path} is in use: process {holder.pid} on host"):
        RunLock(tmp_path).acquire()


def test_a_lock_dies_with_its_process(tmp_path: Path, holder) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()


def test_a_lock_that_is_given_back_leaves_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        lock = RunLock(tmp_path / "runs" / "new")
        lock.acquire()
        assert (tmp_path / "runs" / "new" / ".lock").exists()
        lock.release()
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_has_written_stays_when_its_lock_is_given_back(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "run")
    lock.acquire()
    (tmp_path / "run" / "config.toml").touch()
    lock.release()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.toml"]


def test_who_lives_on_another_host_is_refused_where_locks_do_not_reach_it(
    tmp_path: Path, monkeypatch
) -> None:
    of_another_host(tmp_path)
    sleep = run_lock.time.sleep

    def beats_meanwhile(seconds: float) -> None:
        of_another_host(tmp_path, beat=1)
        sleep(seconds)

    monkeypatch.setattr(run_lock.time, "sleep", beats_meanwhile)
    lock = RunLock(tmp_path)
    with pytest.raises(UserError, match="process 12 on host gpu7"):
        lock.acquire()
    lock.release()
    assert (tmp_path / ".lock").exists()  # it is the other's


def test_the_lock_of_a_host_that_is_gone_is_taken_over(tmp_path: Path, caplog) -> None:
    of_another_host(tmp_path)
    lock = RunLock(tmp_path)
    with caplog.at_level(logging.WARNING):
        lock.acquire()
    lock.release()
    assert "process 12 on host gpu7, which shows no sign of life: taking it over" in caplog.text


def test_a_holder_shows_that_it_lives(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    before = json.loads((tmp_path / ".lock").read_text())
    for _ in range(200):
        if json.loads((tmp_path / ".lock").read_text())["beat"] > before["beat"]:
            break
        run_lock.time.sleep(0.05)
    else:
        raise AssertionError("no beat in 10 s")
    lock.release()
    assert before["pid"] == os.getpid()


def test_a_file_system_without_locks_is_warned_of(tmp_path: Path, monkeypatch, caplog) -> None:
    def refuse(*_: object) -> None:
        raise OSError(run_lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", refuse)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert f"{tmp_path}: this file system has no locks (No locks available)" in caplog.text


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the run directory"):
        RunLock(tmp_path / "file" / "run").acquire()


def test_the_lock_of_a_dead_host_is_taken_over_at_once(tmp_path: Path, monkeypatch) -> None:
    of_another_host(tmp_path)
    monkeypatch.setattr(RunLock, "_wait_for_life", lambda *_: pytest.fail("it is known to be gone"))
    lock = RunLock(tmp_path)
    lock.acquire(from_the_dead=True)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    lock.release()


def test_a_lock_that_outlives_its_host_is_waited_for(tmp_path: Path, holder, monkeypatch) -> None:
    sleeps = []

    def dies_meanwhile(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 3:
            holder.kill()
            holder.wait()

    monkeypatch.setattr(run_lock.time, "sleep", dies_meanwhile)
    lock = RunLock(tmp_path)
    lock.acquire(from_the_dead=True)
    assert len(sleeps) == 3
    lock.release()


def test_who_is_not_gone_after_all_keeps_the_lock(tmp_path: Path, holder, monkeypatch) -> None:
    monkeypatch.setattr(run_lock, "DEAD_S", 0.1)
    with pytest.raises(UserError, match=rf"is in use: process {holder.pid} on host"):
        RunLock(tmp_path).acquire(from_the_dead=True)
