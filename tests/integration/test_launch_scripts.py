"""The launch scripts as a user meets them: wrong arguments, ranks that fail, signals."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.errors import STOPPED
from tests.integration.launching import ROOT, run

DIGITS = ["train", "--recipe", "launch/recipes/digits.toml", "--epochs", "1"]
ENDLESS = [*DIGITS[:-1], "100000"]
# A launcher that starts one rank, as the real ones end their command lines.
# Stands for mpirun: one rank, whose lines are tagged.
ONE_RANK = '#!/bin/bash\n"${@: -4}" 2> >(sed "s/^/[1,0]<stderr>:/" >&2)\n'


@pytest.fixture(params=["gloo", "mpi"])
def transport(request):
    if request.param == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed")
    return f"--{request.param}"


def launch(script, *arguments, timeout_s=60, **options):
    return run(
        [f"launch/{script}.sh", *arguments],
        timeout_s=timeout_s,
        LOCKSTEP_VENV=sys.prefix,
        **options,
    )


# Wrong arguments


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("local", [], "nothing to run"),
        ("local", ["-n", "0", "train"], "-n: expected a whole number from 1 to 65535, got '0'"),
        ("local", ["-x", "train"], "unrecognized arguments: -x"),
        ("hosts", ["train"], "give one of the arguments -H/--hosts --hostfile --discovery"),
        ("hosts", ["-H", "a;touch x", "train"], "'a;touch x' is not a host name"),
        ("hosts", ["-H", "$(touch x):2", "train"], "is not a host name"),
        ("hosts", ["-H", "-oProxyCommand=touch x", "train"], "is not a host name"),
        ("hosts", ["-H", "-oProxyCommand=x", "train"], "expected one argument"),
        ("hosts", ["--hostfile", "no/such/file", "train"], "cannot be read"),
        (
            "hosts",
            ["-H", "a", "--network-interface", "eth0;touch x", "train"],
            "not an interface",
        ),
        ("hosts", ["-H", "a", "--ssh-identity", "k;touch x", "train"], "accepts only letters"),
        ("hosts", ["-H", "a", "--ssh-identity", "no/such/key", "train"], "no such file"),
        (
            "hosts",
            ["-H", "a", "--ssh-port", "0", "train"],
            "--ssh-port: expected a whole number from 1",
        ),
    ],
)
def test_a_wrong_argument_is_one_message_and_code_2(script, arguments, message):
    done = launch(script, *arguments)
    assert done.code == 2, done.all
    assert message in done.err and done.err.startswith("error: "), done.all
    assert done.err.count("\n") == 1 and done.out == "", done.all
    assert not (ROOT / "x").exists()


def test_a_working_directory_that_is_gone_is_told(tmp_path):
    inside = 'mkdir "$1" && cd "$1" && rmdir "$1" && exec "$0" train'
    command = ["bash", "-c", inside, str(ROOT / "launch/local.sh"), str(tmp_path / "gone")]
    done = run(command, timeout_s=30)
    assert done.code == 2 and "the working directory is gone" in done.err, done.all


def test_waiting_for_hosts_can_be_ended():
    command = ["launch/hosts.sh", "-H", "no-such-host.invalid", "--wait", "300", "train"]
    environ = {**os.environ, "LOCKSTEP_VENV": sys.prefix}
    with subprocess.Popen(command, cwd=ROOT, env=environ, text=True, stderr=subprocess.PIPE) as go:
        assert go.stderr.readline() == "waiting for no-such-host.invalid ...\n"
        go.terminate()
        assert go.wait(60) == 128 + signal.SIGTERM


@pytest.mark.parametrize("script", ["local", "hosts"])
def test_help_is_given(script):
    done = launch(script, "--help")
    assert done.code == 0 and f"launch/{script}.sh" in done.out and "--mpi" in done.out, done.all


@pytest.mark.parametrize("text", [None, "", "\n", "# worker-0 slots=1\n \t\n"])
def test_an_mpijob_without_workers_does_not_start_its_ranks_in_the_launcher_pod(tmp_path, text):
    hostfile = tmp_path / "host file"
    if text is not None:
        hostfile.write_text(text)
    done = launch("mpijob", *DIGITS, LOCKSTEP_HOSTFILE=str(hostfile))
    assert done.code == 2, done.all
    assert f"hostfile {hostfile} is missing or names no worker" in done.err, done.all


def test_an_mpijob_says_which_worker_does_not_come_up(tmp_path):
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("job-worker-0.job.invalid slots=1\n")
    done = launch("mpijob", *DIGITS, LOCKSTEP_HOSTFILE=str(hostfile), LOCKSTEP_WAIT_S="3")
    assert done.code == 2, done.all
    assert "waiting for job-worker-0.job.invalid ..." in done.err, done.all
    assert "the name 'job-worker-0.job.invalid' cannot be resolved" in done.err, done.all


@pytest.mark.parametrize(
    "word", ["; touch x", "$(touch x)", "`touch x`", "a\nb", "a 'b' \"c\"", ":", "*", "&", "é"]
)
@pytest.mark.parametrize("option", ["--gloo", "--mpi"])
def test_no_word_of_the_command_is_read_by_a_shell(tmp_path, word, option):
    programs = {
        "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
        "horovodrun": "",
        "mpirun": ONE_RANK,
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LOCKSTEP_VENV": str(tmp_path / "none")}
    command = [str(ROOT / "launch/local.sh"), option, "train", word]
    done = run(command, timeout_s=60, cwd=tmp_path, **environ)
    assert done.code == 2, done.all
    assert f"unknown argument '{word}'" in done.err and not (tmp_path / "x").exists(), done.all


# Ranks that fail


FAILING = """
import os
if "LOCKSTEP_FORKS" in os.environ:
    os._exit(0)  # nothing to fork from: start a fresh process
rank = os.environ.get("HOROVOD_RANK", os.environ.get("OMPI_COMM_WORLD_RANK"))
if rank == "1" and "LOCKSTEP_PULSE" in os.environ:  # not its agent
    import app.train
    from app.errors import UserError
    from tests.integration.test_launch_scripts import fail
    app.train.train = fail
"""


def fail(*_, **__):
    """Stands for training on rank 1."""
    from app.errors import UserError

    way = os.environ["LOCKSTEP_TEST_FAILS"]
    if way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise UserError("the disk is full") if way == "mistake" else RuntimeError("the cat sat on it")


@pytest.mark.full_matrix  # slow: CI runs it
@pytest.mark.parametrize(
    ("way", "code", "last"),
    [
        ("mistake", 2, "[1] error: the disk is full"),
        ("bug", 1, "error: rank 1 ended with exit code 1"),
        ("killed", 128 + signal.SIGKILL, "error: rank 1 was killed by SIGKILL (the kernel"),
    ],
)
def test_the_rank_that_fails_first_is_the_one_that_is_reported(
    tmp_path, transport, way, code, last
):
    (tmp_path / "sitecustomize.py").write_text(FAILING)
    environ = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "LOCKSTEP_TEST_FAILS": way}
    train = [*DIGITS, "--run-dir", str(tmp_path / "run")]
    done = launch("local", "-n", "2", transport, *train, timeout_s=120, **environ)
    assert done.code == code, done.all
    lines = done.err.splitlines()
    assert lines[-1].startswith(last), done.all
    if way == "bug":
        assert lines[0] == "[1] rank 1 of 2 failed:", done.all
        assert done.err.count("Traceback") == 1 and "the cat sat on it" in done.err, done.all
    else:
        # Over gloo a rank that is killed is recovered from, up to a point.
        restarts = 3 if (way, transport) == ("killed", "--gloo") else 0
        assert len(lines) == 1 + restarts, done.all


# Signals


def marked(mark):
    """The processes that have this environment variable."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"LOCKSTEP_TEST_MARK={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.full_matrix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_all_ranks_and_leaves_nothing_behind(tmp_path, transport, number):
    mark = f"{tmp_path.name}-{os.getpid()}"
    environ = {**os.environ, "LOCKSTEP_VENV": sys.prefix, "LOCKSTEP_TEST_MARK": mark}
    run_dir = tmp_path / "run"
    command = ["launch/local.sh", "-n", "2", transport, *ENDLESS, "--run-dir", str(run_dir)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 200
        while not list(run_dir.glob("checkpoints/step-*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(marked(mark)) > 2
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        deadline = time.monotonic() + 60
        while marked(mark) and time.monotonic() < deadline:
            time.sleep(0.2)
        left = marked(mark)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
    assert left == []
    if number != signal.SIGKILL:
        assert process.returncode == STOPPED, err
        assert err.startswith("stopped by SIG") and err.count("\n") == 1, err
