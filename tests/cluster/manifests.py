"""The objects that launch/k8s/ gives, and what the MPI Operator makes of the training job."""

import json
import shutil
import subprocess
from copy import deepcopy
from functools import cache
from pathlib import Path

from launch.manifests import CheckError, render
from tests.cluster import mpi_operator
from tests.cluster.mpi_operator import Object
from tests.integration.launching import ROOT

K8S = ROOT / "launch" / "k8s"
OVERLAYS = ("overlays/cpu", "overlays/gpu", "overlays/elastic")
JOBS = dict(zip(OVERLAYS, ("lockstep-cpu", "lockstep-gpu", "lockstep-cpu-elastic"), strict=True))
# what a user gives to `kubectl apply -k`
APPLIED = ("operator", "common", "data", "upload", *OVERLAYS)


@cache
def why_no_kubectl() -> str:
    """Why kustomizations cannot be built here, or an empty string."""
    if not shutil.which("kubectl"):
        return "kubectl is not installed"
    told = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True)
    if told.returncode or not json.loads(told.stdout).get("kustomizeVersion"):
        return "kubectl is older than 1.24, whose kustomize these files need"
    return ""


def build(folder: Path) -> list[Object]:
    """The objects of a kustomization, as it was at the first call."""
    return deepcopy(_render(folder))


@cache
def _render(folder: Path) -> list[Object]:
    try:
        return render(folder)
    except CheckError as error:
        raise AssertionError(error) from None


def training_job(folder: Path) -> Object:
    """The MPIJob of an overlay, with all defaults."""
    (job,) = (one for one in build(folder) if one["kind"] == "MPIJob")
    return mpi_operator.with_defaults(job, "training")


def everything(folder: Path) -> list[Object]:
    """The objects of a kustomization, and those that the operator makes of its MPIJob."""
    objects = build(folder)
    for job in [one for one in objects if one["kind"] == "MPIJob"]:
        objects += made_by_operator(mpi_operator.with_defaults(job, "training"))
    return objects


def made_by_operator(job: Object, running: bool = False) -> list[Object]:
    """Service, ConfigMap, Secret, workers and launcher of a job with defaults."""
    indices = range(job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"])
    return [
        mpi_operator.service(job),
        mpi_operator.config_map(job, indices if running else ()),
        mpi_operator.ssh_secret(job, b"private", b"public"),
        *(mpi_operator.worker(job, index) for index in indices),
        mpi_operator.launcher(job),
    ]


def pods(objects: list[Object]) -> dict[str, Object]:
    """Labels and spec of every pod, by the name of the pod or of what makes it."""
    found = {}
    for one in objects:
        pod = (
            one if one["kind"] == "Pod" else one["spec"].get("template") if "spec" in one else None
        )
        if pod:
            labels = pod["metadata"]["labels"]
            found[one["metadata"]["name"]] = {"labels": labels, "spec": pod["spec"]}
    return found
