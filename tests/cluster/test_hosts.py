"""launch/hosts.sh for real: over ssh, between hosts that are network namespaces of this machine."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import STOPPED
from tests.cluster.conftest import WORKER

pytestmark = pytest.mark.timeout(720)
DIGITS = ["train", "--recipe", "launch/recipes/digits.toml", "--epochs", "1"]
ENDLESS = [*DIGITS[:-1], "100000"]
TWO = ["-H", "h1:1,h2:1"]


@pytest.fixture(params=["gloo", "mpi"])
def transport(request):
    if request.param == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed")
    return f"--{request.param}"


@contextlib.contextmanager
def running(hosts, tmp_path, *arguments, at="h1"):
    """A run that has trained its first epochs; gives a function that waits for its end."""
    run_dir = tmp_path / "run"
    command = [*arguments, *ENDLESS, "--run-dir", str(run_dir)]
    with ThreadPoolExecutor(1) as pool:
        launched = pool.submit(hosts.launch, *command, timeout_s=240, at=at)
        while not launched.done() and not list(run_dir.glob("checkpoints/step-*")):
            time.sleep(0.2)
        assert not launched.done(), launched.result().all
        yield launched.result


def test_two_hosts_train_one_model(hosts, tmp_path, transport):
    """Its run directory holds all that a shell could mistake for its own."""
    run_dir = tmp_path / "run $(touch x) `touch x` 'a' \"b\" ; touch x & | > x \\ *"
    done = hosts.launch(*TWO, transport, *DIGITS, "--run-dir", str(run_dir), timeout_s=240)
    assert done.code == 0, done.all
    assert "2 rank(s)" in done.out and done.out.count("test accuracy") == 1, done.all
    assert json.loads((run_dir / "metrics.json").read_text())["world_size"] == 2
    assert hosts.left_behind() == []


def test_a_mistake_of_the_user_is_one_message_and_code_2(hosts, tmp_path, transport):
    (tmp_path / "texts.csv").write_text("text,lable\na,b\n")
    train = ["train", "--dataset", str(tmp_path / "texts.csv"), "--model", "bag"]
    # h1 has no rank: no exit code of an application is seen there, but what ssh passes on.
    done = hosts.launch("-H", "h2:1,h3:1", transport, *train, timeout_s=180)
    assert done.code == 2, done.all
    assert done.err.count("has no column 'label'") == 1, done.all
    assert len(done.err.strip().splitlines()) == 1, done.all


def test_a_rank_that_is_killed_on_the_other_host_is_named(hosts, tmp_path, transport):
    if transport == "--gloo":
        pytest.skip("the others go on: test_elastic.py")
    with running(hosts, tmp_path, *TWO, transport) as end:
        (rank,) = hosts.processes("h2", "app")
        os.kill(rank, signal.SIGKILL)
        done = end()
    assert done.code not in (0, 2), done.all
    assert "error: rank 1 on host h2 " in done.err and "killed" in done.err, done.all
    assert len(done.err.strip().splitlines()) == 1, done.all
    assert hosts.left_behind() == []


def test_sigterm_ends_the_ranks_on_all_hosts(hosts, tmp_path, transport):
    """The launcher is no host of ranks, as in an MPIJob."""
    with running(hosts, tmp_path, *TWO, transport, at="h3") as end:
        (launcher,) = hosts.processes("h3", "launch.start")
        os.kill(launcher, signal.SIGTERM)
        done = end()
    assert done.code == STOPPED, done.all
    assert done.err.startswith("stopped by SIG"), done.all
    assert len(done.err.strip().splitlines()) == 1, done.all
    assert hosts.left_behind() == []


def test_a_launcher_that_is_killed_leaves_no_rank(hosts, tmp_path, transport):
    with running(hosts, tmp_path, *TWO, transport, at="h3") as end:
        for pid in hosts.running("h3"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end()
    assert hosts.left_behind() == []


def test_a_closed_port_is_told(hosts, transport):
    with hosts.without_sshd("h2"):
        done = hosts.launch(*TWO, transport, *DIGITS, timeout_s=60)
    assert done.code == 2, done.all
    assert "h2               port 2222 of 10.77.0.2 refuses connections" in done.err, done.all
    assert done.out == "", done.all


def test_a_host_that_is_down_is_told(hosts):
    with hosts.network.cut_off("h2"):
        done = hosts.launch(*TWO, *DIGITS, timeout_s=60)
    assert done.code == 2, done.all
    assert "h2               port 2222 of 10.77.0.2 " in done.err, done.all


def test_a_name_that_leads_nowhere_is_told(hosts):
    done = hosts.launch("-H", "h1,h9", *DIGITS, timeout_s=60)
    assert done.code == 2, done.all
    assert "h9               the name 'h9' cannot be resolved" in done.err, done.all


def test_a_wrong_key_is_told(hosts, tmp_path):
    wrong = str(tmp_path / "wrong")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", wrong], check=True)
    done = hosts.launch(*TWO, "--ssh-identity", wrong, *DIGITS, timeout_s=60)
    assert done.code == 2, done.all
    assert "h2               ssh does not accept this user's key" in done.err, done.all


def test_an_interface_that_one_host_lacks_is_told(hosts):
    hosts.network.add_interface("h1", "ib0", "10.78.0.1/24")
    done = hosts.launch(*TWO, "--network-interface", "ib0", *DIGITS, timeout_s=60)
    assert done.code == 2, done.all
    told = " ".join(done.err.split())
    assert "'ib0' is not on every host" in told and "h1: lo, eth0, ib0; h2: lo, eth0" in told


def test_the_launcher_of_an_mpijob_trains_on_its_workers_and_not_in_itself(hosts, tmp_path):
    """With the hostfile and the environment of the MPI Operator."""
    if shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed")
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("".join(f"{WORKER.format(n)} slots=1\n" for n in (0, 1)))
    environ = {
        "LOCKSTEP_HOSTFILE": str(hostfile),
        "OMPI_MCA_orte_default_hostfile": str(hostfile),
        "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
        "OMPI_MCA_orte_set_default_slots": "1",
        "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
        "NVIDIA_VISIBLE_DEVICES": "",
    }
    train = [*DIGITS, "--run-dir", str(tmp_path / "run")]
    done = hosts.script("mpijob", *train, timeout_s=240, at="h3", **environ)
    assert done.code == 0, done.all
    # One rank on each host: each has all cores of it.
    cores = len(os.sched_getaffinity(0))
    assert f"2 rank(s), mpi, {cores} CPU core(s) each" in done.out, done.all
    assert hosts.left_behind() == []


def test_hosts_that_are_not_up_yet_are_waited_for(hosts, tmp_path):
    hosts.stop_sshd("h2")
    with ThreadPoolExecutor(1) as pool:
        train = [*DIGITS, "--run-dir", str(tmp_path / "run")]
        launched = pool.submit(hosts.launch, *TWO, "--wait", "60", *train, timeout_s=240)
        time.sleep(5)
        hosts.start_sshd("h2")
        done = launched.result()
    assert done.code == 0, done.all
    assert done.err.startswith("waiting for h2 ..."), done.all
