"""What is wrong with the training job of a kustomization, and would be noticed late or never.

    launch/k8s/check.sh FOLDER...

`kubectl apply` refuses a misspelt field. But the MPIJob's CRD takes any word for a policy, any name
for a role and any number of workers: the MPI Operator says so in an event only, or takes the word
for another. Other clients than kubectl may drop misspelt fields in silence, so they are named too.

This needs Python, PyYAML and kubectl, and neither Lockstep's environment nor a cluster.
"""

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

FAILURE, USER_ERROR = 1, 2
CRD_VARIABLE = "LOCKSTEP_MPIJOB_CRD"
VERSION = "kubeflow.org/v2beta1"
# As the operator's pkg/apis/kubeflow/validation/validation.go; but it takes any other word for
# launcherCreationPolicy as WaitForWorkersReady.
WORDS = {
    "spec.launcherCreationPolicy": ("AtStartup", "WaitForWorkersReady"),
    "spec.mpiImplementation": ("OpenMPI", "Intel", "MPICH"),
    "spec.runPolicy.cleanPodPolicy": ("None", "Running", "All"),
    "spec.runPolicy.managedBy": ("kubeflow.org/mpi-operator", "kueue.x-k8s.io/multikueue"),
    "spec.mpiReplicaSpecs.Launcher.restartPolicy": ("Never", "OnFailure"),
    "spec.mpiReplicaSpecs.Worker.restartPolicy": ("Never", "OnFailure"),
}
LEAST = {
    "spec.slotsPerWorker": 1,
    "spec.runPolicy.ttlSecondsAfterFinished": 0,
    "spec.runPolicy.activeDeadlineSeconds": 0,
    "spec.runPolicy.backoffLimit": 0,
}
ROLES = ("Launcher", "Worker")


def _fields(*leaves: str, **inner: Object) -> Object:
    return {"properties": {leaf: {} for leaf in leaves} | inner}


# The fields of an MPIJob itself, in the form of the CRD's schema; that also has those of pods.
SCHEMA = _fields(
    *("apiVersion", "kind", "metadata", "status"),
    spec=_fields(
        *("launcherCreationPolicy", "mpiImplementation", "runLauncherAsWorker"),
        *("slotsPerWorker", "sshAuthMountPath"),
        mpiReplicaSpecs={"additionalProperties": _fields("replicas", "restartPolicy", "template")},
        runPolicy=_fields(
            *("activeDeadlineSeconds", "backoffLimit", "cleanPodPolicy", "managedBy"),
            *("suspend", "ttlSecondsAfterFinished"),
            schedulingPolicy=_fields(
                *("minAvailable", "minResources", "priorityClass", "queue"),
                "scheduleTimeoutSeconds",
            ),
        ),
    ),
)


class CheckError(Exception):
    """What cannot be checked, and why."""


def render(folder: Path) -> list[Object]:
    """The objects of a kustomization, as `kubectl apply -k` would send them."""
    try:
        built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    except OSError:
        raise CheckError("kubectl is missing") from None
    if built.returncode:
        raise CheckError(f"{folder} cannot be built: {built.stderr.strip()}")
    return list(yaml.safe_load_all(built.stdout))


def schema_of(crd: Path) -> Object:
    """The schema of the MPIJob, from a file with the operator's CRD."""
    try:
        versions = yaml.safe_load(crd.read_text())["spec"]["versions"]
        (version,) = (one for one in versions if one["name"] == VERSION.partition("/")[2])
        return version["schema"]["openAPIV3Schema"]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise CheckError(f"{crd} is no CRD of the MPIJob {VERSION}: {error!r}") from None


def mistakes(job: Object, schema: Object = SCHEMA) -> list[str]:
    """A sentence for every mistake in an MPIJob, each of which begins with its field."""
    found = _of_name(job)
    found += [
        f"{path}: there is no such field: {_near(path.rpartition('.')[2], known)}"
        for path, known in unknown_fields(job, schema)
    ]
    for path, words in WORDS.items():
        value = _at(job, path)
        if value is not None and value not in words:
            found.append(f"{path}: {value!r} is none of {', '.join(words)}")
    for path, least in LEAST.items():
        value = _at(job, path)
        if isinstance(value, int) and value < least:
            found.append(f"{path}: {value} is less than {least}")
    return found + _of_roles(_at(job, "spec.mpiReplicaSpecs") or {})


def unknown_fields(
    value: Any, schema: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, Sequence[str]]]:
    """The path of every field that the schema does not have, and the names that it has there."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from unknown_fields(item, schema.get("items", {}), f"{path}[{number}]")
    if not isinstance(value, dict):
        return
    known, others = schema.get("properties"), schema.get("additionalProperties")
    for key, inner in value.items():
        place = f"{path}.{key}" if path else str(key)
        if known and key in known:
            yield from unknown_fields(inner, known[key], place)
        elif isinstance(others, Mapping):
            yield from unknown_fields(inner, others, place)
        elif known and not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield place, list(known)


def _of_name(job: Object) -> list[str]:
    """Its pods have host names, and its Service a name of its own: DNS-1035, no digit in front."""
    name = _at(job, "metadata.name") or ""
    workers = _at(job, "spec.mpiReplicaSpecs.Worker.replicas") or 1
    last = f"{name}-worker-{max(workers, 1) - 1}"
    if len(last) > 63 or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", last):
        return [
            f"metadata.name: a worker would be called {last!r}, which is no host name of at most "
            "63 characters: small letters, digits and -, a letter first"
        ]
    return []


def _of_roles(replicas: Mapping[str, Object]) -> list[str]:
    path = "spec.mpiReplicaSpecs"
    unknown = [role for role in replicas if role not in ROLES]
    found = [f"{path}.{role}: there is no such role: {_near(role, ROLES)}" for role in unknown]
    if not unknown:
        found += [f"{path}.{role}: missing" for role in ROLES if role not in replicas]
    for role in [role for role in ROLES if role in replicas]:
        given = replicas[role] or {}
        if not _at(given, "template.spec.containers"):
            found.append(f"{path}.{role}.template.spec.containers: there is none")
        count = given.get("replicas", 1 if role == "Launcher" else 0)
        if role == "Launcher" and count != 1:
            found.append(f"{path}.Launcher.replicas: {count} launchers, of which there can be one")
        if role == "Worker" and count < 1:
            said = "replicas" in given
            found.append(
                f"{path}.Worker.replicas: {count if said else 'missing, which means 0'}: "
                "there would be no worker"
            )
    return found


def _at(whole: Any, path: str) -> Any:
    """What is at a path; None if nothing is."""
    for key in path.split("."):
        whole = whole.get(key) if isinstance(whole, Mapping) else None
    return whole


def _near(given: str, known: Iterable[str]) -> str:
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), names, n=1)
    return f"did you mean {names[close[0]]}?" if close else f"known are {', '.join(names.values())}"


def check(folder: Path, schema: Object) -> tuple[list[str], list[str]]:
    """What to say of a kustomization's training jobs: those without a mistake, and all mistakes."""
    jobs = [one for one in render(folder) if one and one.get("kind") == "MPIJob"]
    if not jobs:
        return [], [f"{folder}: there is no MPIJob in it"]
    fine, wrong = [], []
    for job in jobs:
        found = mistakes(job, schema)
        if job.get("apiVersion") != VERSION:
            found.insert(0, f"apiVersion: {job.get('apiVersion')!r} is not {VERSION}")
        wrong += [f"{folder}: {sentence}" for sentence in found]
        if not found:
            workers = _at(job, "spec.mpiReplicaSpecs.Worker.replicas")
            size = f"{workers} worker(s) of {_at(job, 'spec.slotsPerWorker') or 1} rank(s)"
            fine.append(f"{folder}: {_at(job, 'metadata.name')}: {size}")
    return fine, wrong


def main(folders: Sequence[str]) -> int:
    """Check kustomizations; returns 0, 1 if there are mistakes, 2 if they cannot be checked."""
    if not folders or folders[0].startswith("-"):
        print((__doc__ or "").strip(), file=sys.stderr)
        return USER_ERROR
    code = 0
    try:
        crd = os.environ.get(CRD_VARIABLE)
        schema = schema_of(Path(crd)) if crd else SCHEMA
        for folder in folders:
            fine, wrong = check(Path(folder), schema)
            print("\n".join([*fine, *wrong]))
            code = FAILURE if wrong else code
    except CheckError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
