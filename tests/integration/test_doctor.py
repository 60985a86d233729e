"""`doctor` for real: on this machine, with broken installations and with hosts out of reach."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from tests.integration.launching import run

pytestmark = pytest.mark.full_matrix  # slow: CI runs it

FAKE_SSH = """#!/bin/bash
# Runs the command here, as the other host would, in a world of its own.
for word; do if [[ $word == -G ]]; then echo "hostname localhost"; echo "port $PORT"; exit; fi; done
echo "Welcome to the other host"
exec bash -c "${@: -1}"
"""


def doctor(*arguments, timeout_s=200, python=sys.executable, **environ):
    """The finished doctor and its results by name."""
    command = [python, "-m", "app", "doctor", "--json", *arguments]
    done = run(command, timeout_s=timeout_s, **environ)
    assert "Traceback" not in done.err, done.all
    assert done.out.startswith("{"), done.all
    report = json.loads(done.out)
    assert done.code == report["exit_code"], done.all
    return done, {row["name"]: row for row in report["results"]}


@pytest.fixture(scope="module")
def no_horovod(tmp_path_factory):
    """A folder whose horovod cannot be imported: the doctor is quick with it on PYTHONPATH."""
    folder = tmp_path_factory.mktemp("shadow")
    (folder / "horovod").mkdir()
    (folder / "horovod" / "__init__.py").write_text("raise ImportError('undefined symbol: absl')\n")
    return {"PYTHONPATH": str(folder)}


@pytest.fixture
def listening():
    """The port of something that accepts connections on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_this_machine_trains_and_the_doctor_says_so():
    done = run([sys.executable, "-m", "app", "doctor"], timeout_s=250)
    assert done.code == 0, done.all
    rows = {line[9:25].strip(): line[:8].strip() for line in done.out.splitlines()}
    for name in ("python", "packages", "TensorFlow", "Horovod", "allreduce, gloo", "host name"):
        assert rows[name] == "ok", done.all
    assert done.out.splitlines()[-1].startswith("0 problem(s)")


def test_a_horovod_that_cannot_be_imported_is_a_problem_with_its_words(no_horovod):
    done, results = doctor(**no_horovod)
    assert done.code == 1
    assert results["Horovod"]["status"] == "problem", done.all
    assert "undefined symbol: absl" in results["Horovod"]["found"]
    assert "make setup" in results["Horovod"]["advice"]
    assert results["TensorFlow"]["status"] == "ok", done.all
    assert "allreduce, gloo" not in results


def test_packages_that_crash_python_do_not_crash_the_doctor(tmp_path):
    for package in ("tensorflow", "horovod"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("import os; os.abort()\n")
    done, results = doctor(PYTHONPATH=str(tmp_path))
    assert done.code == 1
    for name in ("TensorFlow", "Horovod"):
        assert results[name]["status"] == "problem", done.all
        assert "killed by SIGABRT" in results[name]["found"]


def test_a_wrong_sum_is_found(tmp_path):
    """A Horovod that loads, but whose ranks do not reduce."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if 'HOROVOD_RANK' in os.environ:\n"
        "    import horovod.tensorflow as hvd\n"
        "    hvd.allreduce = lambda tensor, **options: tensor\n"
    )
    done, results = doctor(PYTHONPATH=str(tmp_path))
    assert done.code == 1
    assert results["allreduce, gloo"]["status"] == "problem", done.all
    assert "wrong sum of float32" in results["allreduce, gloo"]["found"], done.all


def test_a_python_with_no_packages_at_all_gets_a_report(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    done, results = doctor(python=str(tmp_path / "venv" / "bin" / "python"), timeout_s=60)
    assert done.code == 1
    assert results["packages"]["status"] == "problem", done.all
    assert "tensorflow" in results["packages"]["found"]
    assert "No module named 'horovod'" in results["Horovod"]["found"]


def test_hosts_out_of_reach_are_told_within_a_bounded_time(no_horovod):
    started_s = time.monotonic()
    done, results = doctor("--hosts", "192.0.2.1:4,no-such-host.invalid:4", **no_horovod)
    assert time.monotonic() - started_s < 120, done.all
    assert results["192.0.2.1"]["status"] == "problem", done.all
    assert "cannot be resolved" in results["no-such-host.invalid"]["found"], done.all


def test_a_port_without_sshd_is_told(no_horovod, listening, tmp_path):
    """127.0.0.1 is this host, to which no ssh goes: ssh's own configuration gives another name."""
    fake_ssh(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    path = f"{tmp_path}:{os.environ['PATH']}"
    done, results = doctor("--hosts", "other", PATH=path, PORT=str(closed), **no_horovod)
    assert results["other"]["status"] == "problem", done.all
    assert "refuses connections" in results["other"]["found"]
    assert "--ssh-port" in results["other"]["advice"]


def fake_ssh(folder):
    (folder / "ssh").write_text(FAKE_SSH)
    (folder / "ssh").chmod(0o755)


def test_a_host_that_answers_is_compared_with_this_one(no_horovod, listening, tmp_path):
    fake_ssh(tmp_path)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done, results = doctor("--hosts", "other:1", PATH=path, PORT=str(listening), **no_horovod)
    assert results["other"]["status"] == "ok", done.all
    assert "packages as here" in results["other"]["found"]
    assert results["common interface"]["status"] == "ok", done.all


def test_without_ssh_the_doctor_says_what_to_install(no_horovod, listening, tmp_path):
    # The name goes nowhere, but ssh would have been the first to be asked.
    done, results = doctor("--hosts", "192.0.2.1", PATH=str(tmp_path), **no_horovod)
    assert results["192.0.2.1"]["status"] == "problem", done.all
    assert "ssh is not installed" in results["192.0.2.1"]["found"], done.all
    assert "openssh-client" in results["192.0.2.1"]["advice"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hosts", "-oProxyCommand=touch /tmp/x"], "is not a host name"),
        (["--hosts", "a;touch x"], "is not a host name"),
        (["--hosts", "a", "--hostfile", "b"], "not allowed with argument"),
        (["--hostfile", "/no/such/file"], "cannot be read"),
        (["--hosts", "a", "--ssh-port", "70000"], "expected a whole number from 1 to 65535"),
        (["--hosts", "a", "--ssh-identity", "/no/such/key"], "no such file"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(arguments, message):
    arguments = [arguments[0] + "=" + arguments[1], *arguments[2:]]
    done = run([sys.executable, "-m", "app", "doctor", *arguments], timeout_s=30)
    assert done.code == 2, done.all
    assert message in done.err and done.err.startswith("error: "), done.all
    assert done.err.count("\n") == 1, done.all
