"""launch/k8s/check.sh: a sentence for each mistake that the API server takes without a word."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch import manifests
from tests.cluster.manifests import K8S, OVERLAYS, why_no_kubectl

pytestmark = pytest.mark.skipif(bool(why_no_kubectl()), reason=why_no_kubectl())
CRD = os.environ.get("LOCKSTEP_MPIJOB_CRD", "")
needs_crd = pytest.mark.skipif(not CRD, reason="LOCKSTEP_MPIJOB_CRD names no CRD of the MPIJob")
BASE, OVERLAY = "base/mpijob.yaml", "overlays/cpu/kustomization.yaml"


def check(folder: Path, *overlays: str, crd: str = "") -> subprocess.CompletedProcess[str]:
    """Run check.sh of this repository on kustomizations of a folder."""
    return subprocess.run(
        [str(K8S / "check.sh"), *(str(folder / overlay) for overlay in overlays)],
        capture_output=True,
        text=True,
        env={**os.environ, "LOCKSTEP_VENV": sys.prefix, "LOCKSTEP_MPIJOB_CRD": crd},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of launch/k8s to make mistakes in."""
    shutil.copytree(K8S, tmp_path / "k8s")
    return tmp_path / "k8s"


def change(path: Path, found: str, put: str) -> None:
    text, count = re.subn(found, put, path.read_text(), count=1, flags=re.MULTILINE)
    assert count, f"{path} has no {found}"
    path.write_text(text)


def test_our_own_jobs_have_no_mistake() -> None:
    done = check(K8S, *OVERLAYS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lockstep-cpu: 2 worker(s) of 1 rank(s)" in done.stdout
    assert "lockstep-gpu: 2 worker(s) of 4 rank(s)" in done.stdout


MISTAKES = [
    ("WaitForWorkersReady", "WaitForWorkers", "spec.launcherCreationPolicy: 'WaitForWorkers'"),
    ("Policy: Running", "Policy: running", "spec.runPolicy.cleanPodPolicy: 'running' is none"),
    (
        "restartPolicy: Never",
        "restartPolicy: Always",
        "spec.mpiReplicaSpecs.Launcher.restartPolicy: 'Always' is none of Never, OnFailure",
    ),
    (
        "restartPolicy: OnFailure",
        "restartPolicy: ExitCode",
        "spec.mpiReplicaSpecs.Worker.restartPolicy: 'ExitCode'",
    ),
    ("replicas: 2", "replicas: 0", "spec.mpiReplicaSpecs.Worker.replicas: 0: there would be"),
    ("replicas: 1", "replicas: 2", "spec.mpiReplicaSpecs.Launcher.replicas: 2 launchers"),
    (
        "backoffLimit:",
        "backofLimit:",
        "spec.runPolicy.backofLimit: there is no such field: did you mean backoffLimit?",
    ),
    ("slotsPerWorker: 1", "slotsPerWorker: 0", "spec.slotsPerWorker: 0 is less than 1"),
    ("name: lockstep$", f"name: {'l' * 60}", "metadata.name: a worker would be called"),
]


def test_each_mistake_has_one_sentence(folder: Path) -> None:
    for found, put, _ in MISTAKES:
        change(folder / BASE, found, put)
    done = check(folder, "overlays/cpu")
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(MISTAKES)
    for _, _, sentence in MISTAKES:
        assert [one for one in lines if one.startswith(f"{folder}/overlays/cpu: {sentence}")]


def test_workers_without_a_number_are_none(folder: Path) -> None:
    change(folder / BASE, "^ *replicas: 2\n", "")
    (line,) = check(folder, "overlays/cpu").stdout.splitlines()
    assert "spec.mpiReplicaSpecs.Worker.replicas: missing, which means 0" in line


def test_a_role_of_another_name_has_one_sentence(folder: Path) -> None:
    change(folder / BASE, "^    Worker:", "    Workers:")
    for path in re.findall(r"^.*path: /spec.*/Worker/.*$", (folder / OVERLAY).read_text(), re.M):
        change(folder / OVERLAY, re.escape(path), path.replace("/Worker/", "/Workers/"))
    done = check(folder, "overlays/cpu")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.endswith(
        "spec.mpiReplicaSpecs.Workers: there is no such role: did you mean Worker?"
    )


@needs_crd
def test_with_the_crd_fields_inside_of_pods_are_known(folder: Path) -> None:
    assert check(folder, *OVERLAYS, crd=CRD).returncode == 0
    change(
        folder / BASE, "runAsNonRoot:", "runAsNonroot:"
    )  # the workers' is the same, by a YAML alias
    assert check(folder, "overlays/cpu").returncode == 0
    done = check(folder, "overlays/cpu", crd=CRD)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 2
    assert "Worker.template.spec.securityContext.runAsNonroot: there is no such" in done.stdout
    assert "did you mean runAsNonRoot?" in done.stdout


@needs_crd
def test_the_fields_that_are_known_without_the_crd_are_those_of_the_crd() -> None:
    def names(schema: manifests.Object) -> object:
        inner = dict(schema.get("properties", {}))
        for leaf in ("template", "metadata", "status", "minResources"):
            if leaf in inner:
                inner[leaf] = {}
        values = schema.get("additionalProperties")
        others = names(values) if isinstance(values, dict) else None
        return {name: names(value) for name, value in inner.items()}, others

    assert names(manifests.schema_of(Path(CRD))) == names(manifests.SCHEMA)


def test_what_cannot_be_checked_is_an_error_of_its_own(folder: Path) -> None:
    done = check(folder, "common")
    assert done.returncode == 1 and "there is no MPIJob in it" in done.stdout
    for overlays, crd, said in (
        (["overlays/none"], "", "cannot be built"),
        (["overlays/cpu"], str(folder / BASE), "is no CRD of the MPIJob"),
        ([], "", "check.sh FOLDER..."),
    ):
        done = check(folder, *overlays, crd=crd)
        assert done.returncode == 2 and said in done.stderr, done.stderr
