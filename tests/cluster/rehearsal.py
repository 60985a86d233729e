"""Training jobs of our manifests in pods of this machine, for the tests that watch them."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from launch.manifests import mistakes
from tests.cluster import mpi_operator, pods
from tests.cluster.manifests import K8S, training_job, why_no_kubectl
from tests.cluster.mpi_operator import Object
from tests.cluster.namespaces import Network
from tests.cluster.pods import Kubelet
from tests.integration.launching import PATIENCE, ROOT

TENSORBOARD = "lockstep-tensorboard"
PLAIN = "plain"  # what `docker run` starts
ENDLESS = ("--epochs", "100000")  # to be killed, however fast the machine is


class Cluster:
    """An MPIJob on this machine. `name`: of its launcher; `workers`: their Pods."""

    def __init__(self, kubelet: Kubelet, network: Network, job: dict[str, Any], runs: Path):
        self.kubelet, self.network, self.job, self.runs = kubelet, network, job, runs
        self.name = mpi_operator.launcher_name(job)
        count = job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"]
        self.workers = [mpi_operator.worker(job, index) for index in range(count)]

    @property
    def worker_names(self) -> list[str]:
        """The names of the workers' pods."""
        return [worker["metadata"]["name"] for worker in self.workers]

    def start_workers(self) -> None:
        """Start all workers, which become ready in a few seconds."""
        for pod in self.workers:
            self.kubelet.start(pod)

    def wait_for_workers(self) -> None:
        """Return when all workers are ready."""
        for pod in self.workers:
            self.kubelet.wait_ready(pod, 60)

    def discover(self, *indices: int) -> None:
        """These workers' pods run: the operator says so in discover_hosts.sh."""
        self.kubelet.update(mpi_operator.config_map(self.job, indices))

    def launcher(self, run: str, *options: str) -> dict[str, Any]:
        """The launcher's Pod, for another run directory and with further options."""
        pod = deepcopy(mpi_operator.launcher(self.job)["spec"]["template"])
        pod["metadata"]["name"] = self.name
        args = pod["spec"]["containers"][0]["args"]
        args[args.index("--run-dir") + 1] = f"/runs/{run}"
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
        deadline = time.monotonic() + PATIENCE * timeout_s
        while epoch not in epochs(self.log(run)):
            if time.monotonic() > deadline or not self.kubelet.running(self.name):
                raise AssertionError(f"no epoch {epoch}\n{self.kubelet.log(self.name)}")
            time.sleep(0.1)

    def wait_for_no_rank(self, timeout_s: float) -> None:
        """Return when nothing but sshd runs in the workers."""
        deadline = time.monotonic() + PATIENCE * timeout_s
        while ranks := [rank for name in self.worker_names for rank in self.ranks(name)]:
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


def build_image() -> str:
    """The name of the image of the Dockerfile's CPU target; skips where there can be no pods."""
    if reason := pods.missing() or why_no_kubectl():
        pytest.skip(reason)
    command = [str(ROOT / "tests" / "cluster" / "build_image.sh"), "cpu"]
    built = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert built.returncode == 0, built.stderr[-5000:]
    return built.stdout.strip()


@contextlib.contextmanager
def rehearse(image: str, folder: Path, jobs: Sequence[Object]) -> Iterator[list[Cluster]]:
    """Jobs in one namespace, with all that the operator makes for their pods; none is started."""
    made, names, aliases = [], [TENSORBOARD, PLAIN], {}
    for job in jobs:
        assert mistakes(job) == []
        key = new_key(folder / f"key-{job['metadata']['name']}")
        made += [mpi_operator.config_map(job), mpi_operator.ssh_secret(job, *key)]
        count = job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"]
        own = [mpi_operator.worker_name(job, index) for index in range(count)]
        for name in [mpi_operator.launcher_name(job), *own]:
            names.append(name)
            aliases[name] = [mpi_operator.host_name(job, name)]
    claims = {name: folder / name for name in ("lockstep-runs", "lockstep-data")}
    for place in claims.values():
        place.mkdir()
    with (
        Network(names, aliases) as network,
        Kubelet(network, image, folder, claims, made) as kubelet,
    ):
        yield [Cluster(kubelet, network, job, claims["lockstep-runs"]) for job in jobs]


def new_key(path: Path) -> tuple[bytes, bytes]:
    """A key pair like the operator's: ECDSA P-521, the private key in PEM."""
    options = ["-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", "", "-f", str(path)]
    subprocess.run(["ssh-keygen", *options], check=True)
    private = path.read_bytes()
    assert private.startswith(b"-----BEGIN EC PRIVATE KEY-----")
    return private, path.with_suffix(".pub").read_bytes()


def copied_overlay(folder: Path, overlay: str, suffix: str) -> Object:
    """The training job of a copy of an overlay that has another nameSuffix, as README says."""
    shutil.copytree(K8S, folder / "k8s")
    path = folder / "k8s" / "overlays" / overlay / "kustomization.yaml"
    text, count = re.subn("nameSuffix: .*", f"nameSuffix: -{suffix}", path.read_text())
    assert count == 1
    path.write_text(text)
    return training_job(path.parent)
