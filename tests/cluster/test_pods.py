"""Our image and our manifests, with podman for Kubernetes and mpi_operator.py for the operator.

Launcher and workers of overlays/cpu run in containers of their own, with addresses of their own,
and train for real.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from app.errors import STOPPED
from tests.cluster import mpi_operator, pods
from tests.cluster.manifests import K8S, build, training_job, why_no_kubectl
from tests.cluster.namespaces import Network
from tests.cluster.pods import GRACE_S, Kubelet, podman
from tests.integration.launching import ROOT

pytestmark = [pytest.mark.full_matrix, pytest.mark.timeout(1800)]  # the image may be built first

LAUNCHER = "lockstep-launcher"
WORKERS = ["lockstep-worker-0", "lockstep-worker-1"]
TENSORBOARD = "lockstep-tensorboard"
PLAIN = "plain"  # what `docker run` starts
ENDLESS = ("--epochs", "100000")  # to be killed, however fast the machine is
LISTEN = "0A"  # of /proc/net/tcp


class Cluster:
    """The MPIJob of overlays/cpu on this machine."""

    def __init__(self, kubelet: Kubelet, network: Network, job: dict[str, Any], runs: Path):
        self.kubelet, self.network, self.job, self.runs = kubelet, network, job, runs
        self.workers = [mpi_operator.worker(job, index) for index in range(2)]

    def launcher(self, run: str, *options: str) -> dict[str, Any]:
        """The launcher's Pod, for another run directory and with further options."""
        pod = deepcopy(mpi_operator.launcher(self.job)["spec"]["template"])
        pod["metadata"]["name"] = LAUNCHER
        args = pod["spec"]["containers"][0]["args"]
        args[args.index("/runs/digits")] = f"/runs/{run}"
        args += options
        # Each worker has one core here: a waiting rank must let its own threads compute.
        environment = pod["spec"]["containers"][0]["env"]
        environment.append({"name": "OMPI_MCA_mpi_yield_when_idle", "value": "1"})
        return pod

    def log(self, run: str) -> str:
        """The log of a run's rank 0, on the shared volume."""
        log = self.runs / run / "logs" / "rank-000.log"
        return log.read_text() if log.exists() else ""

    def wait_for_epoch(self, run: str, epoch: int, timeout_s: float = 240) -> None:
        """Return when a run has ended this epoch."""
        deadline = time.monotonic() + timeout_s
        while epoch not in epochs(self.log(run)):
            if time.monotonic() > deadline or not self.kubelet.running(LAUNCHER):
                raise AssertionError(f"no epoch {epoch}\n{self.kubelet.log(LAUNCHER)}")
            time.sleep(0.1)

    def wait_for_no_rank(self, timeout_s: float) -> None:
        """Return when nothing but sshd runs in the workers."""
        deadline = time.monotonic() + timeout_s
        while ranks := [rank for name in WORKERS for rank in self.ranks(name)]:
            assert time.monotonic() < deadline, f"after {timeout_s} s there still runs {ranks}"
            time.sleep(0.5)

    def ranks(self, worker: str) -> list[str]:
        """The command lines of ranks in a worker."""
        lines = []
        for pid in self.network.processes(worker):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if "launch.rank" in line or "orted" in line:
                lines.append(f"{worker}: {line}")
        return lines


def epochs(log: str) -> list[int]:
    """The epochs that a log tells of, in its order."""
    return [int(number) for number in re.findall(r" lockstep: epoch (\d+) in ", log)]


def newest_checkpoint(run: Path) -> int:
    """How many epochs a run had ended at its newest checkpoint."""
    newest = max(run.glob("checkpoints/step-*/state.json"))
    return json.loads(newest.read_text())["epoch"]


@pytest.fixture(scope="module")
def image() -> str:
    """The CPU target of the Dockerfile."""
    if reason := pods.missing() or why_no_kubectl():
        pytest.skip(reason)
    command = [str(ROOT / "tests" / "cluster" / "build_image.sh"), "cpu"]
    built = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert built.returncode == 0, built.stderr[-5000:]
    return built.stdout.strip()


@pytest.fixture(scope="module")
def cluster(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers that are ready, and all that the operator makes for a launcher."""
    folder = tmp_path_factory.mktemp("cluster")
    job = training_job(K8S / "overlays" / "cpu")
    assert mpi_operator.violations(job) == []
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_bytes()
    made = [mpi_operator.config_map(job), mpi_operator.ssh_secret(job, key.read_bytes(), public)]
    claims = {name: folder / name for name in ("lockstep-runs", "lockstep-data")}
    for place in claims.values():
        place.mkdir()
    names = [LAUNCHER, *WORKERS, TENSORBOARD, PLAIN]
    aliases = {name: [mpi_operator.host_name(job, name)] for name in names}
    with (
        Network(names, aliases) as network,
        Kubelet(network, image, folder, claims, made) as kubelet,
    ):
        cluster = Cluster(kubelet, network, job, claims["lockstep-runs"])
        for pod in cluster.workers:
            kubelet.start(pod)
        for pod in cluster.workers:
            kubelet.wait_ready(pod, 60)
        yield cluster


def test_a_job_of_our_manifests_trains_on_two_workers(cluster):
    cluster.kubelet.start(cluster.launcher("digits"))
    code = cluster.kubelet.exit_code(LAUNCHER, 400)
    log = cluster.kubelet.log(LAUNCHER)
    assert code == 0, log
    assert "2 rank(s), mpi" in log
    run = cluster.runs / "digits"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["world_size"] == 2
    assert metrics["epoch"] == 30
    assert metrics["test_accuracy"] > 0.95
    assert newest_checkpoint(run) == 30
    assert list(run.glob("tensorboard/**/events.out.tfevents.*"))


def test_the_image_trains_on_two_ranks_of_one_host(cluster):
    args = ["launch/local.sh", "-n", "2", "train", "--dataset", "digits", "--epochs", "1"]
    pod = {"metadata": {"name": PLAIN}, "spec": {"containers": [{"name": PLAIN, "args": args}]}}
    cluster.kubelet.start(pod)
    assert cluster.kubelet.exit_code(PLAIN, 300) == 0, cluster.kubelet.log(PLAIN)
    assert "2 rank(s), gloo" in cluster.kubelet.log(PLAIN)


def test_a_job_whose_launcher_and_then_a_worker_is_killed_resumes_and_finishes(cluster):
    kubelet, run = cluster.kubelet, cluster.runs / "restarted"
    launcher = cluster.launcher("restarted", *ENDLESS)
    kubelet.start(launcher)
    cluster.wait_for_epoch("restarted", 3)
    kubelet.kill(LAUNCHER)
    cluster.wait_for_no_rank(60)  # two generations of ranks would write to one directory
    first = newest_checkpoint(run)
    assert first >= 3

    kubelet.start(launcher)  # the Job's next try
    cluster.wait_for_epoch("restarted", first + 3)
    kubelet.kill(WORKERS[1])
    code = kubelet.exit_code(LAUNCHER, 120)
    assert code not in (0, 2), kubelet.log(LAUNCHER)  # 2 is for mistakes of the user
    cluster.wait_for_no_rank(60)
    second = newest_checkpoint(run)
    assert second >= first + 3

    last = second + 3
    kubelet.start(cluster.workers[1])  # the kubelet starts it again, and the launcher
    kubelet.start(cluster.launcher("restarted", "--epochs", str(last)))  # waits for it
    assert kubelet.exit_code(LAUNCHER, 400) == 0, kubelet.log(LAUNCHER)
    log = cluster.log("restarted")
    # Ranks that have lost their launcher end at a commit point, also inside an epoch.
    starts = re.findall(r"from (\d+)(?: and [\d,]+ examples)?\n", log)
    assert [int(epoch) for epoch in starts] == [first, second]
    # A checkpoint is written before its epoch is shown, and the kill may fall between the two.
    assert set(range(1, last + 1)) - set(epochs(log)) <= {first, second}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epoch"] == newest_checkpoint(run) == last


def test_a_worker_pod_that_is_deleted_stops_all_ranks_first(cluster):
    kubelet, run = cluster.kubelet, cluster.runs / "evicted"
    kubelet.start(cluster.launcher("evicted", *ENDLESS))
    cluster.wait_for_epoch("evicted", 2)
    began = time.monotonic()
    kubelet.stop(WORKERS[1])
    took_s = time.monotonic() - began
    code, told = kubelet.exit_code(LAUNCHER, 60), kubelet.log(LAUNCHER)
    cluster.wait_for_no_rank(60)
    kubelet.start(cluster.workers[1])  # for the tests after this one
    kubelet.wait_ready(cluster.workers[1], 60)
    assert code == STOPPED, told
    assert took_s < GRACE_S  # nothing had to be killed
    log = cluster.log("evicted")
    assert "stopped by " in log and newest_checkpoint(run) >= 2, log
    # In validation, which follows a checkpoint, ranks stop where they are.
    if step := re.search(r"stopped by .* at step (\d+), with ", log):
        assert max(run.glob("checkpoints/step-*")).name == f"step-{int(step[1]):08d}", log


@pytest.mark.parametrize(
    ("security", "told"),
    [({"runAsUser": 0}, "running as root"), ({"runAsUser": 1000}, "no ~/.ssh/authorized_keys")],
)
def test_a_worker_that_could_not_work_says_why(cluster, security, told):
    args = ["launch/worker.sh"]
    spec = {"containers": [{"name": PLAIN, "args": args}], "securityContext": security}
    cluster.kubelet.start({"metadata": {"name": PLAIN}, "spec": spec})
    assert cluster.kubelet.exit_code(PLAIN, 60) == 2
    assert told in cluster.kubelet.log(PLAIN)


def test_a_worker_whose_host_vanishes_ends_the_job_in_bounded_time(cluster):
    kubelet = cluster.kubelet
    kubelet.start(cluster.launcher("vanished", *ENDLESS))
    cluster.wait_for_epoch("vanished", 2)
    with cluster.network.cut_off(WORKERS[1]):  # nothing says goodbye: ssh must notice the silence
        assert kubelet.exit_code(LAUNCHER, 180) not in (0, 2), kubelet.log(LAUNCHER)
    cluster.wait_for_no_rank(120)


def test_tensorboard_of_our_manifests_shows_the_run(cluster):
    (deployment,) = [one for one in build(K8S / "common") if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]
    pod["metadata"]["name"] = TENSORBOARD
    cluster.kubelet.start(pod)
    fetch = "from urllib.request import urlopen as u; print(u('http://localhost:6006/data/runs').read())"
    deadline = time.monotonic() + 120
    shown = ""
    while "digits" not in shown:
        assert time.monotonic() < deadline, f"{shown}\n{cluster.kubelet.log(TENSORBOARD)}"
        time.sleep(1)
        shown = cluster.kubelet.execute(
            TENSORBOARD, "sh", "-c", f'python -c "{fetch}" 2>&1 || true'
        )


def test_a_launcher_without_the_operators_hostfile_starts_no_rank(cluster):
    launcher = cluster.launcher("nowhere")
    container = launcher["spec"]["containers"][0]
    container["volumeMounts"] = [m for m in container["volumeMounts"] if "/etc/mpi" not in str(m)]
    cluster.kubelet.start(launcher)
    assert cluster.kubelet.exit_code(LAUNCHER, 60) == 2
    assert "hostfile /etc/mpi/hostfile is missing" in cluster.kubelet.log(LAUNCHER)
    assert not (cluster.runs / "nowhere").exists()


def test_a_worker_runs_without_privileges_on_a_file_system_that_it_cannot_change(cluster):
    def inside(command: str) -> str:
        return cluster.kubelet.execute(WORKERS[0], "sh", "-c", command).strip()

    assert inside("id -u; id -g") == "1000\n1000"
    status = dict(re.findall(r"^(\w+):\s+(\S+)", inside("cat /proc/1/status"), re.MULTILINE))
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {0}
    for place in ("/", "/etc", "/opt/lockstep", "/home/lockstep", "/home/lockstep/.ssh", "/data"):
        refused = inside(f"touch {place}/x 2>&1 || true")
        assert "Read-only file system" in refused, f"{place}: {refused}"
    assert inside("touch /runs/x /tmp/x && rm /runs/x /tmp/x && echo written") == "written"


def test_a_worker_listens_for_ssh_alone_and_takes_keys_alone(cluster):
    worker, other = WORKERS
    sockets = cluster.kubelet.execute(worker, "cat", "/proc/net/tcp", "/proc/net/tcp6")
    rows = [row.split() for row in sockets.splitlines()]
    assert {int(row[1].split(":")[1], 16) for row in rows if row[3] == LISTEN} == {2222}

    def ssh(*options: str) -> str:
        words = " ".join(options)
        return cluster.kubelet.execute(other, "sh", "-c", f"ssh {words} 2>&1 || true")

    assert ssh(worker, "hostname") == f"{worker}\n"
    cluster.kubelet.execute(other, "ssh-keygen", "-q", "-N", "", "-f", "/tmp/another")
    for options in (
        ("-o", "PubkeyAuthentication=no", worker),
        ("-o", "IdentitiesOnly=yes", "-i", "/tmp/another", worker),
        (f"root@{worker}",),
    ):
        assert "Permission denied (publickey)" in ssh(*options, "hostname")
    assert "forwarding failed" in ssh("-W", "localhost:2222", worker)


def test_the_image_holds_no_private_key_and_nothing_of_the_machine_that_built_it(image):
    config = json.loads(podman("image", "inspect", image))[0]
    assert config["Config"]["User"] == "1000:1000"
    assert not [one for one in config["Config"]["Env"] if re.match(r"(?i)pip|.*proxy", one)]
    root = Path(podman("image", "mount", image).strip())
    try:
        for place in ("etc", "home", "root", "opt/lockstep/launch", "var/lib", "run", "tmp"):
            for path in (root / place).rglob("*"):
                if path.is_file() and not path.is_symlink():
                    assert b"PRIVATE KEY-----" not in path.read_bytes()[:4096], path
        assert not (root / "etc/pip.conf").exists() or not (root / "etc/pip.conf").read_bytes()
    finally:
        podman("image", "unmount", image)
