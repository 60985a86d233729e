"""launch/k8s/: built with kubectl, checked against the schemas of Kubernetes and of the MPIJob."""

import argparse
import copy
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from app.commands.command_line import parse
from app.recipe import given_keys, load
from launch import start
from launch.manifests import mistakes, schema_of, unknown_fields
from tests.cluster import mpi_operator
from tests.cluster.manifests import (
    APPLIED,
    JOBS,
    K8S,
    OVERLAYS,
    build,
    everything,
    made_by_operator,
    pods,
    training_job,
    why_no_kubectl,
)
from tests.cluster.mpi_operator import Object
from tests.integration.launching import ROOT

pytestmark = pytest.mark.skipif(bool(why_no_kubectl()), reason=why_no_kubectl())
KUBERNETES = "1.32"
CRD = os.environ.get("LOCKSTEP_MPIJOB_CRD")
SSH_PORT = 2222  # of the image's sshd
TERM_TO_KILL_S = 10  # what mpirun gives ranks between SIGTERM and SIGKILL
needs_crd = pytest.mark.skipif(not CRD, reason="LOCKSTEP_MPIJOB_CRD names no CRD of the MPIJob")


def check_built_in(one: Object) -> None:
    kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.fixture(scope="module")
def crd() -> jsonschema.Draft202012Validator:
    """The schema of the CRD, with fields forbidden that it does not name: `kubectl apply` has the
    API server refuse them (fieldValidation Strict)."""
    schema = schema_of(Path(CRD or ""))
    schema["properties"]["metadata"] = {
        "properties": {key: {"type": "object"} for key in ("labels", "annotations")}
        | {key: {"type": "string"} for key in ("name", "namespace")}
    }
    forbid_others(schema)
    return jsonschema.Draft202012Validator(schema)


def forbid_others(schema: Any) -> None:
    if isinstance(schema, dict):
        for part in schema.values():
            forbid_others(part)
        # `properties` is also the name of a field: then it holds no schemas of fields
        if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
            schema["additionalProperties"] = False


@pytest.mark.parametrize("folder", APPLIED)
def test_every_object_fits_the_schema_of_its_kind(folder: str) -> None:
    objects = everything(K8S / folder)
    checked = [one for one in objects if one["kind"] != "MPIJob"]
    assert checked
    for one in checked:
        check_built_in(one)


@needs_crd
@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_training_job_fits_the_crd(folder: str, crd: jsonschema.Draft202012Validator) -> None:
    for one in build(K8S / folder):
        crd.validate(one)


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_training_job_keeps_the_rules_of_the_operator(folder: str) -> None:
    assert mistakes(training_job(K8S / folder)) == []


@pytest.fixture
def options_on(tmp_path: Path) -> Path:
    """A copy of launch/k8s with everything that a comment offers."""
    folder = tmp_path / "k8s"
    shutil.copytree(K8S, folder)
    for path, offered in (
        ("base/mpijob.yaml", r"kueue\.x-k8s"),
        ("overlays/gpu/kustomization.yaml", "- op|  path|  value"),
    ):
        text = (folder / path).read_text()
        text, count = re.subn(rf"^( *)# ((?:{offered}).*)$", r"\1\2", text, flags=re.MULTILINE)
        assert count
        (folder / path).write_text(text)
    return folder


@needs_crd
@pytest.mark.parametrize("folder", OVERLAYS)
def test_what_comments_offer_is_valid_too(
    folder: str, options_on: Path, crd: jsonschema.Draft202012Validator
) -> None:
    (job,) = build(options_on / folder)
    crd.validate(job)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    for one in made_by_operator(mpi_operator.with_defaults(job)):
        check_built_in(one)
    if folder == "overlays/gpu":
        launcher = pods(everything(options_on / folder))["lockstep-gpu-launcher"]
        names = {one["name"] for one in launcher["spec"]["containers"][0]["env"]}
        assert {"NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NCCL_DEBUG"} <= names


def misspelt(whole: Object) -> Iterator[tuple[str, Object]]:
    """Copies of an object, each with the name of one field misspelt, and the path of the field."""

    def walk(at: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        for key, value in at.items() if isinstance(at, dict) else enumerate(at):
            if isinstance(value, dict | list):
                yield from walk(value, (*path, key))
            # What a user chooses the names of: labels, data, resources and their like.
            if isinstance(at, dict) and path[-1:] not in FREE:
                yield (*path, key)

    for *parents, last in walk(whole, ()):
        other = copy.deepcopy(whole)
        at = other
        for key in parents:
            at = at[key]
        at[f"{last}s"] = at.pop(last)
        yield ".".join(map(str, [*parents, last])), other


FREE = [(key,) for key in ("labels", "matchLabels", "data", "requests", "limits", "selector")]
FREE += [("mpiReplicaSpecs",)]  # a map from roles to replicas


@pytest.mark.parametrize("folder", sorted(set(APPLIED) - set(OVERLAYS)))
def test_a_misspelt_field_of_a_built_in_kind_is_caught_wherever_it_is(folder: str) -> None:
    for one in build(K8S / folder):
        for path, other in misspelt(one):
            if path in ("apiVersion", "kind"):
                continue  # then there is no schema to find
            with pytest.raises(kubernetes_validate.ValidationError):
                check_built_in(other)
                pytest.fail(f"{one['kind']}: {path} misspelt is not noticed")


@needs_crd
@pytest.mark.parametrize("folder", OVERLAYS)
def test_a_misspelt_field_of_a_training_job_is_caught_wherever_it_is(
    folder: str, crd: jsonschema.Draft202012Validator
) -> None:
    (job,) = build(K8S / folder)
    tried, schema = 0, schema_of(Path(CRD or ""))
    for path, other in misspelt(job):
        assert not crd.is_valid(other), f"{path} misspelt is not noticed"
        if not path.startswith("metadata."):  # the CRD leaves these to Kubernetes
            assert list(unknown_fields(other, schema)), f"our own check does not notice {path}"
        tried += 1
    assert tried > 100


def launcher_options(folder: Path) -> argparse.Namespace:
    """What launch/mpijob.sh gives to launch/hosts.sh; `arguments` are those of the application."""
    job = training_job(folder)
    (container,) = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    script, *words = container["args"]
    assert script == "/opt/lockstep/launch/mpijob.sh"
    if words[0] == "--elastic":
        return start.parse("hosts", ["--discovery", "/etc/mpi/discover_hosts.sh", *words[1:]])
    return start.parse("hosts", ["--hostfile", "/etc/mpi/hostfile", "--mpi", *words])


@pytest.mark.parametrize("folder", OVERLAYS)
def test_a_launcher_trains_with_a_recipe_of_ours_and_resumes_in_the_volume(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # as the image's working directory has launch/recipes
    _, options = parse(launcher_options(K8S / folder).arguments)
    config = load(options.recipe, given_keys(options))
    assert options.command == "train" and options.resume
    workers = pods(everything(K8S / folder))[f"{JOBS[folder]}-worker-0"]["spec"]["containers"][0]
    writable = {one["mountPath"]: not one.get("readOnly") for one in workers["volumeMounts"]}
    assert writable[str(Path(config.run.run_dir or "").parent)]
    assert config.data.data_dir is None or not writable[str(config.data.data_dir)]
    if folder == "overlays/gpu":  # it trains on what the data Job prepares
        data_job = pods(build(K8S / "data"))["lockstep-data"]["spec"]["containers"][0]
        python, of_module, module, *arguments = data_job["args"]
        assert (python, of_module, module) == ("python", "-m", "app")
        prepared = given_keys(parse(arguments)[1])
        assert load(None, prepared).data.dataset == config.data.dataset
        assert load(None, prepared).data.data_dir == config.data.data_dir


def test_an_elastic_job_has_room_for_all_its_workers() -> None:
    spec = training_job(K8S / "overlays/elastic")["spec"]
    options = launcher_options(K8S / "overlays/elastic")
    started = spec["slotsPerWorker"] * spec["mpiReplicaSpecs"]["Worker"]["replicas"]
    assert options.min_ranks <= started < options.max_ranks
    assert start.elastic_terms(options, started)


@pytest.mark.parametrize("folder", OVERLAYS)
def test_a_worker_has_as_many_ranks_and_threads_as_its_resources_allow(folder: str) -> None:
    job = training_job(K8S / folder)
    made = pods(everything(K8S / folder))
    (worker,) = made[f"{JOBS[folder]}-worker-0"]["spec"]["containers"]
    (launcher,) = made[f"{JOBS[folder]}-launcher"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in launcher["env"]}
    resources = worker["resources"]
    assert resources["requests"] == resources["limits"]  # so that others do not take its CPUs
    ranks = job["spec"]["slotsPerWorker"]
    if folder == "overlays/gpu":
        assert resources["limits"]["nvidia.com/gpu"] == ranks
        assert "nvidia.com/gpu" not in launcher["resources"]["limits"]
    else:
        threads = int(environment["TF_NUM_INTRAOP_THREADS"])
        assert ranks * threads == int(resources["limits"]["cpu"])


def test_name_and_digest_of_an_image_stand_in_one_place(tmp_path: Path) -> None:
    """The README's command changes them for all pods on that hardware, and for no others."""
    folder = tmp_path / "k8s"
    shutil.copytree(K8S, folder)
    for hardware, digit in (("cpu", "a"), ("gpu", "b")):
        path = folder / "images" / hardware / "kustomization.yaml"
        text = re.sub("newName: .*", f"newName: example.test/{hardware}", path.read_text())
        path.write_text(re.sub("digest: .*", f"digest: sha256:{digit * 64}", text))
    for applied in APPLIED:
        wanted = f"example.test/gpu@sha256:{'b' * 64}"
        if applied != "overlays/gpu":
            wanted = f"example.test/cpu@sha256:{'a' * 64}"
        for pod in pods(everything(folder / applied)).values():  # none in operator/
            assert [one["image"] for one in pod["spec"]["containers"]] == [wanted]


def test_overlays_and_copies_of_them_are_jobs_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "k8s"
    shutil.copytree(K8S, folder)
    shutil.copytree(folder / "overlays/cpu", folder / "overlays/mine")
    path = folder / "overlays/mine/kustomization.yaml"
    path.write_text(path.read_text().replace("nameSuffix: -cpu", "nameSuffix: -mine"))
    seen: set[tuple[str, str]] = set()
    for overlay in (*OVERLAYS, "overlays/mine"):
        made = {(one["kind"], one["metadata"]["name"]) for one in everything(folder / overlay)}
        assert not seen & made
        seen |= made
    assert ("Pod", "lockstep-mine-worker-0") in seen


@pytest.mark.parametrize("folder", OVERLAYS)
def test_a_failed_launcher_or_worker_starts_again_when_all_workers_take_ssh(folder: str) -> None:
    job = training_job(K8S / folder)
    policy = job["spec"]["runPolicy"]
    # no enum in the CRD, no rule of the operator: any word but AtStartup waits, also a misspelt one
    assert job["spec"]["launcherCreationPolicy"] == "WaitForWorkersReady"
    assert policy["activeDeadlineSeconds"] > 0
    assert policy["cleanPodPolicy"] == "Running"
    made = pods(everything(K8S / folder))
    launcher, worker = (made[f"{JOBS[folder]}-{role}"]["spec"] for role in ("launcher", "worker-0"))
    assert launcher["restartPolicy"] == "Never"  # so that failed pods stay, and tell why
    assert worker["restartPolicy"] == "OnFailure"
    for pod in (launcher, worker):
        assert pod["terminationGracePeriodSeconds"] > TERM_TO_KILL_S
        assert pod["containers"][0]["terminationMessagePolicy"] == "FallbackToLogsOnError"
    (port,) = worker["containers"][0]["ports"]
    assert port["containerPort"] == SSH_PORT
    assert worker["containers"][0]["readinessProbe"]["tcpSocket"]["port"] == port["name"]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_readme_tells_how_often_a_launcher_is_started_again(folder: str) -> None:
    """With `restartPolicy: Never` a Job has failed when more than `backoffLimit` pods have."""
    limit = training_job(K8S / folder)["spec"]["runPolicy"]["backoffLimit"]
    text = (ROOT / "launch" / "README.md").read_text()
    assert re.findall(r"up to (\d+) times \(`backoffLimit: (\d+)`\)", text) == [(str(limit),) * 2]
