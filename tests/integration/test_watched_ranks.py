"""The launch scripts with ranks that stop, hang or die: a small program stands for training."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.errors import STOPPED, STUCK
from tests.integration.launching import ROOT

# In place of the application, in the process that an agent starts. Ranks take steps together.
STAND_IN = """
import os
if "LOCKSTEP_FORKS" in os.environ:
    os._exit(0)  # nothing to fork from: start a fresh process
if "LOCKSTEP_PULSE" in os.environ:
    import faulthandler, pathlib, signal, sys, time
    from app.distributed.launcher import read_launcher
    from app.pulse import PULSE
    rank = read_launcher().rank
    room = pathlib.Path(os.environ["LOCKSTEP_TEST_ROOM"])
    asked = []
    def stop(*_):
        asked.append(1)
        PULSE.ask_to_stop()
    signal.signal(signal.SIGTERM, stop)
    faulthandler.register(signal.SIGUSR1)
    (room / f"rank-{rank}").write_text(f"{os.getpid()} {os.getppid()} .")
    PULSE.limits(4.0, 4.0)
    PULSE.enter("step")
    while not asked or os.environ.get("LOCKSTEP_TEST_DEAF"):
        PULSE.step += 1
        PULSE.beat()
        (room / f"step-{rank}").mkdir(exist_ok=True)
        os.utime(room / f"step-{rank}", (PULSE.step, PULSE.step))
        other = room / f"step-{1 - rank}"
        while not asked and not (other.exists() and other.stat().st_mtime >= PULSE.step):
            time.sleep(0.05)
        time.sleep(0.1)
    print("a commit point", flush=True)
    os._exit(75)
"""


@pytest.fixture(params=["gloo", pytest.param("mpi", marks=pytest.mark.full_matrix)])
def transport(request):
    if request.param == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed")
    return f"--{request.param}"


LEFT_S = 80  # mpirun itself waits 15 s for ranks that have ended, if it gets a signal


class Launch:
    """A launch whose two ranks are taking steps."""

    def __init__(self, tmp_path, transport, command, **environ):
        (tmp_path / "sitecustomize.py").write_text(STAND_IN)
        self.mark = f"{tmp_path}-{os.getpid()}"
        environ |= {"PYTHONPATH": f"{tmp_path}:{ROOT}", "LOCKSTEP_TEST_ROOM": str(tmp_path)}
        environ |= {"LOCKSTEP_VENV": sys.prefix, "LOCKSTEP_TEST_MARK": self.mark}
        self.process = subprocess.Popen(
            ["launch/local.sh", "-n", "2", transport, command],
            cwd=ROOT,
            env={**os.environ, **environ},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        files = [tmp_path / f"rank-{rank}" for rank in (0, 1)]
        deadline = time.monotonic() + 120
        while not all(file.exists() and file.read_text().endswith(".") for file in files):
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2)  # a report or two
        said = [file.read_text().split() for file in files]
        self.ranks, self.agents = [int(words[0]) for words in said], [int(w[1]) for w in said]

    def end(self):
        """(exit code, standard output, standard error), and nothing is left."""
        out, err = self.process.communicate(timeout=60)
        deadline = time.monotonic() + LEFT_S
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.2)
        left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.left()]
        assert left == [], err
        return self.process.returncode, out, err

    def left(self):
        """The processes of this launch."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"LOCKSTEP_TEST_MARK={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found


@pytest.fixture
def launch(tmp_path, transport):
    """Starts a launch, and leaves nothing of it."""
    launches = []

    def start(command="train", **environ):
        launches.append(Launch(tmp_path, transport, command, **environ))
        return launches[-1]

    yield start
    for launched in launches:
        for pid in launched.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        launched.process.communicate()


@pytest.mark.parametrize("who", ["launcher", "agent", "rank"])
def test_ranks_that_are_asked_to_stop_all_end_at_a_commit_point(launch, who):
    run = launch()
    pid = {"launcher": run.process.pid, "agent": run.agents[1], "rank": run.ranks[1]}[who]
    os.kill(pid, signal.SIGTERM)
    code, out, err = run.end()
    assert code == STOPPED, err
    by = "SIGTERM" if who == "launcher" else "a signal to rank"
    assert err.startswith(f"stopped by {by}") and err.count("\n") == 1, err
    assert sorted(out.splitlines()) == ["[1] a commit point", "a commit point"]


def test_a_second_signal_ends_at_once_ranks_that_do_not_stop(launch):
    run = launch(LOCKSTEP_TEST_DEAF="1")
    run.process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGINT)
    code, _, err = run.end()
    assert (code, err) == (128 + signal.SIGINT, "stopped by SIGINT\n")


def test_a_rank_that_is_stopped_is_named(launch):
    run = launch("evaluate")  # over gloo, training would go on without it
    os.kill(run.ranks[1], signal.SIGSTOP)
    code, _, err = run.end()
    assert code == STUCK, err
    assert "error: rank 1: no progress for " in err.splitlines()[-1], err
    assert "its process is stopped" in err.splitlines()[-1], err
    assert err.count("most recent call first") == 2, err


@pytest.mark.parametrize("who", ["agent", "rank"])
def test_a_rank_or_an_agent_that_is_killed_is_named(launch, transport, who):
    run = launch("evaluate")
    os.kill(run.agents[1] if who == "agent" else run.ranks[1], signal.SIGKILL)
    code, _, err = run.end()
    if (who, transport) == ("agent", "--mpi"):  # mpirun does not say what became of it
        assert code in (255, 128 + signal.SIGKILL), err
    else:
        assert code == 128 + signal.SIGKILL, err
    said = ("error: rank 1 was killed by SIGKILL", "error: rank 1 ended: its process was killed")
    assert err.splitlines()[-1].startswith(said), err


def test_no_rank_outlives_a_launcher_that_is_killed(launch):
    run = launch()
    run.process.kill()
    assert run.end()[0] == -signal.SIGKILL
