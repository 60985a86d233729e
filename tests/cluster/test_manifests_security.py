"""launch/k8s/: what pods may do, who may reach them, and where keys are."""

import ipaddress
import re
from typing import Any, NamedTuple

import pytest
import yaml

from tests.cluster.manifests import (
    APPLIED,
    JOBS,
    K8S,
    OVERLAYS,
    build,
    everything,
    pods,
    why_no_kubectl,
)
from tests.cluster.mpi_operator import Object

pytestmark = pytest.mark.skipif(bool(why_no_kubectl()), reason=why_no_kubectl())
TRAINING = ("launcher", "worker-0", "worker-1")


def all_pods() -> dict[str, Object]:
    """Every pod of everything that is applied, by overlay/name."""
    found = {}
    for folder in APPLIED:
        made = pods(everything(K8S / folder))
        found.update({f"{folder}/{name}": pod for name, pod in made.items()})
    return found


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def test_every_pod_keeps_the_pod_security_standard_restricted() -> None:
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/
    allowed = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"}
    allowed |= {"projected", "secret", "csi", "name"}
    for name, pod in all_pods().items():
        spec = pod["spec"]
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            assert not spec.get(key), f"{name}: {key}"
        assert all(set(volume) <= allowed for volume in spec["volumes"]), name
        of_pod = spec["securityContext"]
        assert of_pod["runAsNonRoot"] is True and of_pod["runAsUser"] > 0, name
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not set(of_pod) & {"sysctls", "seLinuxOptions", "appArmorProfile"}, name
        for container in containers(spec):
            context = container["securityContext"]
            # nothing but these, so no container takes back what its pod says
            assert context == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,  # more than the standard asks for
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert not any("hostPort" in port for port in container.get("ports", ())), name


def test_no_pod_gets_a_token_for_the_api_server() -> None:
    for name, pod in all_pods().items():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert "serviceAccountName" not in pod["spec"], name


def test_every_container_has_requests_and_limits() -> None:
    for name, pod in all_pods().items():
        for container in containers(pod["spec"]):
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind]), f"{name}: {kind}"


def test_every_image_is_named_by_its_digest() -> None:
    for name, pod in all_pods().items():
        for container in containers(pod["spec"]):
            assert re.fullmatch(r"[^@]+@sha256:[0-9a-f]{64}", container["image"]), name


def test_every_container_leaves_tini_in_charge_of_signals() -> None:
    for name, pod in all_pods().items():
        for container in containers(pod["spec"]):
            assert "command" not in container and container["args"], name


def test_a_pod_that_writes_files_has_a_place_for_them_since_its_root_is_read_only() -> None:
    for name, pod in all_pods().items():
        for container in containers(pod["spec"]):
            if container["args"][0] != "sleep":
                mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
                volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
                assert volumes[mounts["/tmp"]]["emptyDir"]["sizeLimit"], name


@pytest.mark.parametrize("folder", OVERLAYS)
def test_a_worker_has_shared_memory_that_fits_its_memory_limit(folder: str) -> None:
    spec = pods(everything(K8S / folder))[f"{JOBS[folder]}-worker-0"]["spec"]
    (container,) = spec["containers"]
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    (shm,) = [one["emptyDir"] for one in spec["volumes"] if one["name"] == mounts["/dev/shm"]]
    assert shm["medium"] == "Memory"
    limit = container["resources"]["limits"]["memory"]
    assert gibibytes(shm["sizeLimit"]) <= gibibytes(limit) / 4


def gibibytes(quantity: str) -> int:
    number, unit = quantity[:-2], quantity[-2:]
    assert unit == "Gi", quantity
    return int(number)


def test_nothing_is_reached_from_outside_the_cluster() -> None:
    for folder in APPLIED:
        for one in everything(K8S / folder):
            assert one["kind"] not in ("Ingress", "Gateway", "HTTPRoute")
            if one["kind"] == "Service":
                assert one["spec"].get("type", "ClusterIP") == "ClusterIP"
                assert not set(one["spec"]) & {"externalIPs", "loadBalancerIP"}
                assert not any("nodePort" in port for port in one["spec"].get("ports", ()))


def test_no_key_or_secret_is_in_the_manifests() -> None:
    for path in sorted(K8S.rglob("*.yaml")):
        text = path.read_text()
        assert "PRIVATE KEY" not in text and "ssh-rsa" not in text and "ssh-ed25519" not in text
        for one in yaml.safe_load_all(text):
            assert one["kind"] != "Secret" and not set(one) & {"secretGenerator"}, path


def test_the_keys_are_where_only_ranks_and_their_launcher_run() -> None:
    """The operator mounts them with mode 0644 at any path but root's, so what keeps them from
    others is that a pod has one container and one user, who is not root."""
    for name, pod in all_pods().items():
        spec = pod["spec"]
        mounted = [one["secret"]["secretName"] for one in spec["volumes"] if "secret" in one]
        folder, _, own = name.rpartition("/")
        if folder in JOBS and own.startswith(JOBS[folder]):
            assert mounted == [f"{JOBS[folder]}-ssh"]
            assert len(containers(spec)) == 1 and not spec.get("shareProcessNamespace")
            (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "ssh-auth"]
            assert mount["mountPath"] == "/home/lockstep/.ssh"
            assert "ssh-auth" not in [one["name"] for one in spec["volumes"] if "secret" not in one]
        else:
            assert not mounted, name


class Peer(NamedTuple):
    """An end of a connection: a pod of this namespace or another, or an address outside."""

    labels: dict[str, str] | None = None
    namespace: str = "training"
    address: str = "10.0.0.1"


OUTSIDE = Peer(None, "", "93.184.216.34")
METADATA = Peer(None, "", "169.254.169.254")
STRANGER = Peer({"app": "other"})
FOREIGN = Peer({"app": "other"}, namespace="elsewhere")
DNS = Peer({"k8s-app": "kube-dns"}, namespace="kube-system")


def peer(folder: str, name: str) -> Peer:
    return Peer(pods(everything(K8S / folder))[name]["labels"])


def may_connect(source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies let `source` open a connection to `target`, as Kubernetes defines it."""
    return _allows("Egress", source, target, port, protocol) and _allows(
        "Ingress", target, source, port, protocol
    )


def _allows(direction: str, own: Peer, other: Peer, port: int, protocol: str) -> bool:
    policies = [one["spec"] for one in build(K8S / "common") if one["kind"] == "NetworkPolicy"]
    selecting = [
        spec
        for spec in policies
        if own.labels is not None
        and own.namespace == "training"
        and direction in spec["policyTypes"]
        and _selects(spec["podSelector"], own.labels)
    ]
    if not selecting:
        return True
    key, ends = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    rules = [rule for spec in selecting for rule in spec.get(key, ())]
    return any(
        (not rule.get(ends) or any(_matches(one, other) for one in rule[ends]))
        and (
            not rule.get("ports")
            or any(p["port"] == port and p["protocol"] == protocol for p in rule["ports"])
        )
        for rule in rules
    )


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        one["operator"] == "In" and labels.get(one["key"]) in one["values"]
        for one in selector.get("matchExpressions", ())
    )


def _matches(rule: Object, other: Peer) -> bool:
    if "ipBlock" in rule:
        block: Any = rule["ipBlock"]
        address = ipaddress.ip_address(other.address)
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(o) for o in block["except"])
    assert "namespaceSelector" not in rule  # then this evaluation would need to know more
    return (
        other.labels is not None
        and other.namespace == "training"
        and _selects(rule["podSelector"], other.labels)
    )


@pytest.mark.parametrize("folder", OVERLAYS)
def test_launcher_and_workers_reach_each_other_and_names_and_nothing_else(folder: str) -> None:
    launcher, worker, other = (peer(folder, f"{JOBS[folder]}-{name}") for name in TRAINING)
    tensorboard = peer("common", "lockstep-tensorboard")
    for source, target in ((launcher, worker), (worker, launcher), (worker, other)):
        assert may_connect(source, target, 2222)
        assert may_connect(source, target, 41234)  # what Open MPI and NCCL choose
    for inside in (launcher, worker):
        assert may_connect(inside, DNS, 53, "UDP") and may_connect(inside, DNS, 53)
        for target in (OUTSIDE, METADATA, FOREIGN, STRANGER):
            assert not may_connect(inside, target, 443)
        for source in (OUTSIDE, FOREIGN, STRANGER, tensorboard):
            assert not may_connect(source, inside, 2222)
            assert not may_connect(source, inside, 41234)


def test_tensorboard_is_reached_from_its_namespace_only_and_reaches_nothing() -> None:
    tensorboard = peer("common", "lockstep-tensorboard")
    assert may_connect(STRANGER, tensorboard, 6006)
    assert not may_connect(STRANGER, tensorboard, 22)
    assert not may_connect(FOREIGN, tensorboard, 6006)
    assert not may_connect(OUTSIDE, tensorboard, 6006)
    for target in (OUTSIDE, STRANGER, FOREIGN, DNS):
        assert not may_connect(tensorboard, target, 443)


def test_the_data_job_may_download_but_not_ask_for_the_clouds_credentials() -> None:
    job = peer("data", "lockstep-data")
    assert may_connect(job, OUTSIDE, 443) and may_connect(job, DNS, 53, "UDP")
    assert not may_connect(job, OUTSIDE, 22)
    assert not may_connect(job, METADATA, 443) and not may_connect(job, METADATA, 80)
    assert not may_connect(STRANGER, job, 443)


def test_the_upload_pod_has_no_network_at_all() -> None:
    upload = peer("upload", "lockstep-upload")
    for target in (OUTSIDE, STRANGER, DNS):
        assert not may_connect(upload, target, 443)
        assert not may_connect(target, upload, 443)


def test_every_service_finds_a_ready_port_of_a_pod() -> None:
    objects = build(K8S / "common")
    (service,) = [one["spec"] for one in objects if one["kind"] == "Service"]
    (pod,) = pods(objects).values()
    assert _selects({"matchLabels": service["selector"]}, pod["labels"])
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]
    assert str(port["containerPort"]) in container["args"]
    assert container["readinessProbe"]["httpGet"]["port"] == port["name"]
