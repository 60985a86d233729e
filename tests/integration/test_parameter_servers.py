"""Parameter servers as a user starts them; and the launch of tests/served."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from app.errors import STOPPED
from launch.cluster import configs, deal, free_ports
from launch.gloo import HOME
from tests.integration.launching import BIN, LAUNCHER_VARIABLES, ROOT, app, run
from tests.integration.serving import Room
from tests.processes import has_ended

DIGITS = ["train", "--dataset", "digits", "--width", "4", "--per-rank-batch-size", "64"]
WAIT_S = 180.0
LOCALHOST = "127.0.0.1"


def environment(**more):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
    own = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return {**inherited, **own, "TF_CPP_MIN_LOG_LEVEL": "3", "LOCKSTEP_VENV": sys.prefix, **more}


@pytest.mark.timeout(800)
@pytest.mark.parametrize(
    "which", ["not full_matrix", pytest.param("full_matrix", marks=pytest.mark.full_matrix)]
)
def test_the_served_tests_pass(tmp_path, which):
    """Two workers and two servers for all of them, and pytest as the coordinator."""
    from app.doctor.hosts import Host

    slots = deal(2, 2, [Host("localhost", 2)])
    told = configs(slots, {"localhost": LOCALHOST}, free_ports(len(slots), LOCALHOST))
    with contextlib.ExitStack() as running:
        for number, config in enumerate(told[1:]):
            output = running.enter_context((tmp_path / f"task-{number}").open("wb"))
            process = subprocess.Popen(
                app("train"),
                cwd=ROOT,
                env=environment(TF_CONFIG=config),
                stdout=output,
                stderr=output,
            )
            running.callback(process.wait)
            running.callback(process.kill)
        pytest_here = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider"]
        pytest_here += ["--timeout=120", "--timeout-method=thread", "-o", "addopts="]
        done = run([*pytest_here, "-m", which, "tests/served"], timeout_s=360, TF_CONFIG=told[0])
        output = "".join(path.read_text() for path in sorted(tmp_path.glob("task-*")))
    assert done.code == 0, done.all + output
    assert re.search(r"^\d+ passed\b.* in ", done.out, re.MULTILINE), done.all


class Launched:
    """A run of launch/parameter_servers.sh in the background."""

    def __init__(self, folder: Path, *arguments: str):
        self.room, self.run_dir = Room(folder / "room"), folder / "run"
        command = [str(HOME / "launch/parameter_servers.sh"), *arguments]
        self.process = subprocess.Popen(
            [*command, "--run-dir", str(self.run_dir)],
            cwd=ROOT,
            env=environment(**self.room.environ),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def waits_for(self, condition):
        until = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until, "it does not come"
            time.sleep(0.05)
        return found

    def kept(self):
        return sorted(self.run_dir.glob("checkpoints/step-*"))

    def all_processes(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, timeout_s=90):
        """(exit code, standard output, standard error); nothing is left behind."""
        children = self.all_processes() if self.process.poll() is None else []
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.process.communicate()) from None
        assert not [one for one in children if one.is_running() and one.status() != "zombie"]
        return self.process.returncode, out, err


@pytest.fixture
def launched(tmp_path):
    made = []

    def start(*arguments):
        made.append(Launched(tmp_path, *arguments))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.communicate()


@pytest.mark.timeout(600)
def test_a_killed_worker_is_replaced_another_leaves_and_a_stop_is_kept(launched):
    run = launched("-w", "2", "-s", "1", *DIGITS, "--epochs", "100000")
    run.waits_for(run.kept)
    before = run.room.pid(1)
    os.kill(before, signal.SIGKILL)
    run.waits_for(lambda: run.room.pid(1) != before)
    log = run.run_dir / "logs" / "rank-000.log"
    step = run.kept()[-1]
    run.waits_for(lambda: run.kept()[-1] > step)
    time.sleep(3)  # the new one takes part again
    leaver = run.room.pid(0)
    os.kill(leaver, signal.SIGTERM)
    run.waits_for(lambda: has_ended(leaver))
    step = run.kept()[-1]
    run.waits_for(lambda: run.kept()[-1] > step)  # by the other one alone
    run.process.send_signal(signal.SIGTERM)
    code, out, err = run.end()
    assert code == STOPPED, out + err
    assert "worker 1 was killed by SIGKILL" in err and "it is started again now" in err, err
    assert "worker 0 has left, since it was asked to" in err, err
    told = re.search(r"stopped by SIGTERM (at step|in) .* --resume goes on from there", err)
    assert told, err
    assert "2 worker(s), 1 server(s)" in out, out
    assert "Traceback" not in err, err
    lost = re.findall(r"worker (\d) was lost: 1 batch\(es\) dealt again", log.read_text())
    assert len(lost) == len(set(lost))
    meta = json.loads((run.kept()[-1] / "state.json").read_text())
    assert re.search(rf"(at step |with step-0*){meta['step']}\b", told[0]), err


@pytest.mark.timeout(600)
@pytest.mark.full_matrix
def test_after_a_server_is_lost_all_go_on_from_the_newest_commit(launched):
    run = launched("-w", "2", "-s", "2", *DIGITS, "--epochs", "150", "--json")
    run.waits_for(run.kept)
    servers = [one for one in run.all_processes() if '"ps"' in _part_of(one)]
    assert servers
    os.kill(max(servers, key=lambda one: one.create_time()).pid, signal.SIGKILL)
    code, out, err = run.end(timeout_s=200)
    assert code == 0, out + err
    assert re.search(r"restarting all after step \d+ \(1st time\): server \d was killed", err), err
    found = json.loads(re.search(r"^\{$.*?^\}$", out, re.MULTILINE | re.DOTALL)[0])
    assert found["examples_trained_on"] == 150 * 1294
    assert found["goodput"]["restarts"] == 1


def _part_of(process):
    """The task of TF_CONFIG of a process that is no agent's."""
    with contextlib.suppress(psutil.Error, KeyError, ValueError):
        environ = process.environ()
        if "launch.rank" not in process.cmdline():
            return json.dumps(json.loads(environ["TF_CONFIG"])["task"])
    return ""


def script(*arguments, timeout_s=60):
    command = [str(HOME / "launch/parameter_servers.sh"), *arguments]
    return run(command, timeout_s=timeout_s, LOCKSTEP_VENV=sys.prefix)


def test_a_port_that_is_taken_is_named(tmp_path):
    first = max(free_ports(1, LOCALHOST))
    with socket.create_server((LOCALHOST, first + 1 if first < 65000 else first)) as taken:
        port = taken.getsockname()[1]
        begin = str(port - 1)
        done = script("-w", "1", "--port", begin, *DIGITS, "--run-dir", str(tmp_path / "run"))
    assert done.code == 2, done.all
    assert f"worker 0: port {port} of " in done.err, done.all
    assert not (tmp_path / "run").exists()


def test_what_parameter_servers_cannot_do_is_one_message(tmp_path):
    run_dir = ["--run-dir", str(tmp_path / "run")]
    done = script("-w", "1", *DIGITS, "--compression", "int8", *run_dir)
    assert done.code == 2, done.all
    assert len(done.err.strip().splitlines()) == 1, done.all
    assert "compression = 'int8' is about ranks that exchange through Horovod" in done.err
