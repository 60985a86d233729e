"""The stand-in for the MPI Operator against objects that were derived from its source by hand."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.manifests import mistakes
from tests.cluster import mpi_operator
from tests.cluster.manifests import made_by_operator
from tests.cluster.mpi_operator import Object

INDEX = "training.kubeflow.org/replica-index"
EXPECTED = Path(__file__).parent / "expected"
WORKER = {"replicas": 1, "template": {"spec": {"containers": [{"name": "main"}]}}}


def load(name: str) -> list[Object]:
    return list(yaml.safe_load_all((EXPECTED / f"{name}.yaml").read_text()))


@pytest.mark.parametrize(("name", "running"), [("defaults", True), ("overrides", False)])
def test_it_makes_of_a_job_what_the_operator_makes(name: str, running: bool) -> None:
    given, *expected = load(name)
    assert made_by_operator(mpi_operator.with_defaults(given, "bar"), running) == expected


def test_the_given_job_stays_as_it_is() -> None:
    given = load("overrides")[0]
    made_by_operator(mpi_operator.with_defaults(given))
    assert given == load("overrides")[0]


def test_hosts_are_discovered_in_the_order_of_their_names_as_strings() -> None:
    job = mpi_operator.with_defaults(load("defaults")[0], "bar")
    script = mpi_operator.config_map(job, [10, 2])["data"]["discover_hosts.sh"]
    assert script == "#!/bin/sh\necho foo-worker-10.foo.bar.svc\necho foo-worker-2.foo.bar.svc\n"


def test_a_launcher_that_is_a_worker_too_is_a_host_and_sees_gpus() -> None:
    # cases "launcher-as-worker" and "OpenMPI without slots, enable launcher as worker" of
    # mpi_job_controller_test.go
    given = load("defaults")[0]
    given["spec"]["runLauncherAsWorker"] = True
    job = mpi_operator.with_defaults(given, "bar")
    data = mpi_operator.config_map(job)["data"]
    assert data["hostfile"].splitlines()[0] == "foo-launcher.foo.bar.svc slots=1"
    assert data["discover_hosts.sh"] == "#!/bin/sh\necho foo-launcher.foo.bar.svc\n"
    assert mpi_operator.service(job)["spec"]["publishNotReadyAddresses"] is True
    template = mpi_operator.launcher(job)["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert not [one for one in container["env"] if one["name"].startswith("NVIDIA")]
    workers = [mpi_operator.worker(job, index) for index in range(2)]
    assert [one["metadata"]["name"] for one in workers] == ["foo-worker-0", "foo-worker-1"]
    indices = [one["metadata"]["labels"][INDEX] for one in (template, *workers)]
    assert indices == ["0", "1", "2"]


@pytest.mark.parametrize(("version", "policy"), [("0.8.0", None), ("0.8.2", "Failed")])
def test_releases_differ_in_when_the_launchers_next_pod_is_made(
    version: str, policy: str | None
) -> None:
    job = mpi_operator.with_defaults(load("defaults")[0], "bar")
    launcher = mpi_operator.launcher(job, version)
    assert launcher["spec"].get("podReplacementPolicy") == policy


@pytest.mark.parametrize(
    ("field", "path", "value"),
    [
        # cases of TestValidateMPIJob in pkg/apis/kubeflow/validation/validation_test.go
        (
            "metadata.name",
            "metadata.name",
            "a" * 53,
        ),
        ("metadata.name", "metadata.name", "1-foo"),
        ("metadata.name", "metadata.name", ""),
        ("spec.runPolicy.cleanPodPolicy", "spec.runPolicy.cleanPodPolicy", "unknown"),
        ("spec.runPolicy.ttlSecondsAfterFinished", "spec.runPolicy.ttlSecondsAfterFinished", -1),
        ("spec.runPolicy.activeDeadlineSeconds", "spec.runPolicy.activeDeadlineSeconds", -1),
        ("spec.runPolicy.backoffLimit", "spec.runPolicy.backoffLimit", -1),
        ("spec.runPolicy.managedBy", "spec.runPolicy.managedBy", "invalid.com/controller"),
        ("spec.mpiImplementation", "spec.mpiImplementation", "Unknown"),
        ("spec.slotsPerWorker", "spec.slotsPerWorker", -1),
        ("spec.mpiReplicaSpecs.Launcher", "spec.mpiReplicaSpecs", {"Worker": WORKER}),
        (
            "spec.mpiReplicaSpecs.Launcher.restartPolicy",
            "spec.mpiReplicaSpecs.Launcher.restartPolicy",
            "Always",
        ),
        ("spec.mpiReplicaSpecs.Launcher.replicas", "spec.mpiReplicaSpecs.Launcher.replicas", 2),
        (
            "spec.mpiReplicaSpecs.Worker.restartPolicy",
            "spec.mpiReplicaSpecs.Worker.restartPolicy",
            "Invalid",
        ),
        ("spec.mpiReplicaSpecs.Worker.replicas", "spec.mpiReplicaSpecs.Worker.replicas", 0),
        (
            "spec.mpiReplicaSpecs.Worker.template.spec.containers",
            "spec.mpiReplicaSpecs.Worker.template",
            {},
        ),
    ],
)
def test_each_rule_of_the_operator_is_known(field: str, path: str, value: Any) -> None:
    job = mpi_operator.with_defaults(load("defaults")[0])
    job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"] = 1000
    assert mistakes(job) == []
    *parents, last = path.split(".")
    at = job
    for key in parents:
        at = at[key]
    at[last] = value
    assert [one.partition(": ")[0] for one in mistakes(job)] == [field]
