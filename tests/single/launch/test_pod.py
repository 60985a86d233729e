"""launch/pod.py: last words for `kubectl describe pod`, written by the launcher's report."""

import io
from pathlib import Path

import pytest

from app.errors import STOPPED, STUCK, USER_ERROR
from launch import pod
from launch.report import SSH_LOST, Report
from launch.start import main

WORKER = "lockstep-cpu-worker-{}.lockstep-cpu.team.svc"
HOSTS = [WORKER.format(0), WORKER.format(1)]


@pytest.fixture
def message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the kubelet has made."""
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setenv(pod.MESSAGE_VARIABLE, str(path))
    return path


def report() -> Report:
    return Report(HOSTS, io.BytesIO())


def test_the_reason_comes_first_and_the_last_lines_of_the_rank_that_failed_follow(message):
    told = report()
    told.output(0, b"epoch 1\n", io.BytesIO())
    told.error(1, b"rank 1 of 2 failed:\n")
    told.error(1, b"ZeroDivisionError: division by zero\n")
    told.error(0, b"an exchange failed; has another rank ended?\n")
    told.exited(1, 1)
    told.exited(0, 1)
    assert told.ended(1) == 1
    assert message.read_text() == (
        f"error: rank 1 on host {HOSTS[1]} ended with exit code 1\n"
        "rank 1 of 2 failed:\nZeroDivisionError: division by zero\n"
    )


def test_a_mistake_of_the_user_is_its_own_reason(message):
    told = report()
    told.error(0, b"error: unknown recipe\n")
    told.exited(0, USER_ERROR)
    assert told.ended(USER_ERROR) == USER_ERROR
    assert message.read_text() == "error: unknown recipe\n"


def test_a_worker_that_is_lost_is_named_with_what_to_do(message):
    told = report()
    told.exited(1, SSH_LOST)
    told.ended(1)
    assert "kubectl get pod lockstep-cpu-worker-1` shows it as Failed, delete it" in (
        message.read_text()
    )


def test_ranks_that_are_stuck_or_were_stopped_leave_a_reason_too(message):
    assert report().stuck("rank 1 is stuck", STUCK) == STUCK
    assert message.read_text() == "error: rank 1 is stuck\n"
    assert report().stopped_well("SIGTERM") == STOPPED
    assert message.read_text() == "stopped by SIGTERM\n"


def test_a_launch_that_never_began_leaves_its_error(message):
    assert main(["hosts", "train"]) == USER_ERROR
    assert message.read_text().startswith("error: give one of the arguments -H/--hosts")


def test_success_leaves_nothing(message):
    assert report().ended(0) == 0
    assert message.read_bytes() == b""


def test_the_newest_lines_are_kept_and_the_kubelet_drops_nothing():
    lines = [b"%03d %s\n" % (number, b"x" * 60) for number in range(100)]
    text = pod.last_words("error: why", lines)
    assert len(text) <= pod.MESSAGE_BYTES
    assert text.startswith(b"error: why\n0") and text.endswith(lines[-1])
    assert len(pod.last_words("é" * 5000, [])) <= pod.MESSAGE_BYTES + 1


def test_outside_of_a_pod_no_file_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv(pod.MESSAGE_VARIABLE, str(tmp_path / "none"))
    pod.leave("error: why")
    monkeypatch.delenv(pod.MESSAGE_VARIABLE)
    pod.leave("error: why")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["gpu1", "localhost", "job-launcher.job.team.svc"])
def test_other_hosts_get_no_advice_about_pods(host):
    assert pod.advice(host) == ""
