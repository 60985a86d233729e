"""The doctor's bounds on what hangs, breaks or prints."""

import sys
import time

from app.doctor.probe import Pending, attempt, run, tail


def test_a_command_that_hangs_is_ended_with_its_children():
    started_s = time.monotonic()
    code = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    finished = run([sys.executable, "-c", code], timeout_s=2)
    assert time.monotonic() - started_s < 10
    assert finished.failure == "no end within 2 s" and finished.out == "begun\n"


def test_a_command_that_cannot_start_is_a_failure(tmp_path):
    assert run(["no-such-program"], 5).failure == "no-such-program is not installed"
    (tmp_path / "file").write_text("")
    assert "cannot be started" in (run([str(tmp_path / "file")], 5).failure or "")
    assert "cannot be started" in (run(["a\0b"], 5).failure or "")


def test_a_command_that_crashes_says_by_which_signal():
    assert run([sys.executable, "-c", "import os; os.abort()"], 10).failure == "killed by SIGABRT"
    assert run([sys.executable, "-c", "exit(3)"], 10).failure == "exit code 3"


def test_a_check_that_breaks_or_hangs_is_a_problem_of_its_own():
    def broken():
        raise PermissionError("secret")

    (result,) = attempt("limits", Pending(broken), 5)
    assert result.status == "problem" and "PermissionError: secret" in result.found
    (result,) = attempt("limits", Pending(time.sleep, 60), 0.1)
    assert result.status == "problem" and "no answer within" in result.found


def test_output_of_others_cannot_steer_the_terminal():
    assert tail("\x1b[31mred\x1b[0m\n\n\x07bell\x9b2J\n") == "red\n?bell?2J"
    assert len(tail("x" * 10_000)) == 300 and tail("a\n" * 100).count("\n") == 14
