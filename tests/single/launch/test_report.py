"""What the launcher's report shows of the output of ranks, and what it says has ended a launch."""

import io

import pytest

from launch.report import Report, reason, split


def report(hosts=("h1", "h2")):
    """A report and what it shows."""
    errors = io.BytesIO()
    return Report(hosts, errors), errors


def told(errors):
    return errors.getvalue().decode().splitlines()


def test_rank_0_has_no_prefix_and_others_have_their_number():
    shows, _ = report()
    screen = io.BytesIO()
    shows.output(0, b"epoch 1\n", screen)
    for line in (
        b"[1,0]<stdout>:epoch 2\n",
        b"[1,1]<stdout>:hello\n",
        b"[1,0]<stdout>:10%\r[1,0]<stdout>:20%\n",
        b"[1,1]<stdout>:in pieces[1,1]<stdout>:\n",
    ):
        shows.output(*split(line), screen)
    assert screen.getvalue() == b"epoch 1\nepoch 2\n[1] hello\n10%\r20%\n[1] in pieces\n"
    assert split(b"mpirun noticed\n") == (None, b"mpirun noticed\n")


MPI_CODE = """\
mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[26087,1],1]
  Exit code:    {}
"""


def test_a_mistake_is_only_its_message():
    shows, errors = report()
    shows.error(1, b"error: no such column\n")
    for line in MPI_CODE.format(2).encode().splitlines(keepends=True):
        shows.error(None, line)
    assert shows.ended(2) == 2
    assert told(errors) == ["[1] error: no such column"]


def test_the_first_traceback_is_shown_and_those_of_others_are_not():
    shows, errors = report()
    for line in (b"Traceback (most recent call last):\n", b"ValueError: a\n"):
        shows.error(1, line)
        shows.error(0, line)
    shows.exited(1, 1)
    shows.exited(0, 143)
    assert shows.ended(1) == 1
    assert told(errors) == [
        "[1] Traceback (most recent call last):",
        "[1] ValueError: a",
        "error: rank 1 on host h2 ended with exit code 1",
    ]


def test_the_killed_rank_is_named_and_the_echo_of_the_others_is_not_shown():
    shows, errors = report()
    shows.error(0, b"rank 0: an exchange failed; has another rank ended? closed\n")
    shows.exited(0, 1)
    shows.exited(1, 137)
    assert shows.ended(1) == 137
    (line,) = told(errors)
    assert line.startswith("error: rank 1 on host h2 was killed by SIGKILL")


def test_without_another_reason_the_echo_is_shown():
    shows, errors = report(["localhost"] * 2)
    shows.error(0, b"rank 0: an exchange failed; has another rank ended? closed\n")
    shows.exited(0, 1)
    assert shows.ended(1) == 1
    assert told(errors)[0].startswith("rank 0: an exchange failed")
    assert told(errors)[1] == "error: rank 0 ended with exit code 1"


def test_a_signal_that_mpirun_noticed_is_told():
    shows, errors = report()
    shows.error(
        None, b"mpirun noticed that process rank 1 with PID 7 on node h2 exited on signal 11"
    )
    assert shows.ended(139) == 139
    assert told(errors) == ["error: rank 1 on host h2 was killed by SIGSEGV"]


def test_a_host_that_mpirun_has_lost_is_named():
    shows, errors = report()
    text = (
        "ORTE has lost communication with a remote daemon.\n\n"
        "  HNP daemon   : [[1,0],0] on node h1\n  Remote daemon: [[1,0],1] on node h2\n"
    )
    for line in text.splitlines(keepends=True):
        shows.error(None, line.encode())
    assert shows.ended(205) == 1
    assert told(errors) == ["error: the connection to host h2 was lost: is it still up?"]


def test_a_launcher_that_fails_by_itself_shows_its_last_lines():
    shows, errors = report()
    shows.error(None, b"ValueError: no free port\n")
    assert shows.ended(1) == 1
    assert told(errors)[0] == "ValueError: no free port" and "launcher failed" in told(errors)[1]


def test_what_was_held_back_is_shown_when_all_ends_well():
    shows, errors = report()
    shows.error(0, b"Traceback (most recent call last): in a log\n")
    shows.error(1, b"a warning\n")
    assert shows.ended(0) == 0
    assert told(errors)[1] == "[1] a warning"


@pytest.mark.parametrize(
    ("status", "words"),
    [(1, "exit code 1"), (137, "SIGKILL"), (255, "ssh connection"), (200, "signal 72")],
)
def test_an_exit_status_is_put_into_words(status, words):
    assert words in reason(status)


def test_the_rank_that_was_asked_to_stop_is_quoted_unless_another_has_failed():
    shows, errors = report()
    shows.error(0, b"stopped by SIGTERM at step 7\n")
    assert shows.stopped_well("SIGTERM") == 75
    assert told(errors) == ["stopped by SIGTERM at step 7"]
    shows, errors = report()
    shows.error(0, b"stopped by SIGTERM in input\n")
    shows.exited(0, 75)
    shows.exited(1, 137)
    assert shows.ended(1) == 137
    assert len(told(errors)) == 1 and "rank 1" in told(errors)[0]


def test_stopped_as_asked_and_stuck_have_their_own_codes():
    shows, errors = report()
    assert shows.stopped_well("SIGTERM") == 75
    assert shows.stuck("rank 1 on h2: no progress", 124) == 124
    assert told(errors) == [
        "stopped by SIGTERM",
        "error: rank 1 on h2: no progress",
    ]
