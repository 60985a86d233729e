"""How Kubernetes' fields are said to podman; what would be left out in silence is refused."""

import base64
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Fields that say nothing to one machine, or that the operator has used already.
WITHOUT_MEANING_HERE = {
    "automountServiceAccountToken",  # podman mounts none
    "enableServiceLinks",  # podman sets none
    "restartPolicy",  # the tests restart
    "schedulerName",
    "tolerations",
    "topologySpreadConstraints",
    "affinity",
    "subdomain",  # names are in /etc/hosts
    "setHostnameAsFQDN",
    "priorityClassName",
    "dnsConfig",
    "dnsPolicy",
}
OF_POD = {"containers", "volumes", "securityContext", "hostname", "terminationGracePeriodSeconds"}
OF_CONTAINER = {
    "name",
    "image",
    "command",
    "args",
    "env",
    "workingDir",
    "volumeMounts",
    "securityContext",
    "resources",
    "terminationMessagePolicy",  # the file is there; the tests look into logs by themselves
    # not imitated:
    "ports",
    "readinessProbe",
    "imagePullPolicy",
}
OF_POD_SECURITY = {
    "runAsNonRoot",
    "runAsUser",
    "runAsGroup",
    "fsGroup",
    "fsGroupChangePolicy",
    "seccompProfile",
}
OF_SECURITY = {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}


def only(given: Mapping[str, Any], known: set[str], what: str) -> None:
    """Raise for a field that would be left out in silence."""
    if unknown := set(given) - known:
        raise NotImplementedError(f"{what}: {', '.join(sorted(unknown))}")


def security(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    """Podman's options for the security contexts of a pod and of its container."""
    only(pod, OF_POD_SECURITY, "securityContext of the pod")
    only(container, OF_SECURITY, "securityContext of the container")
    if "runAsUser" in pod:
        yield from ("--user", f"{pod['runAsUser']}:{pod.get('runAsGroup', 0)}")
    elif pod.get("runAsNonRoot"):
        raise NotImplementedError("runAsNonRoot without runAsUser")
    if "fsGroup" in pod:
        yield from ("--group-add", str(pod["fsGroup"]))
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":  # Kubernetes' own default
        yield from ("--security-opt", "seccomp=unconfined")
    if container.get("allowPrivilegeEscalation") is False:
        yield from ("--security-opt", "no-new-privileges")
    if container.get("readOnlyRootFilesystem"):
        yield from ("--read-only", "--read-only-tmpfs=false")
    for change in ("drop", "add"):
        for name in container.get("capabilities", {}).get(change, ()):
            yield from (f"--cap-{change}", name.lower())


def binary(quantity: str) -> str:
    """Kubernetes' `8Gi` as podman writes it: `8g`."""
    if not re.fullmatch(r"\d+[MG]i", quantity):
        raise NotImplementedError(quantity)
    return quantity.removesuffix("i").lower()


def writable(volume: Mapping[str, Any]) -> bool:
    """May a pod write to this volume at all?"""
    claim = volume.get("persistentVolumeClaim", {})
    return not claim.get("readOnly") and not volume.keys() & {"configMap", "secret"}


def write_items(
    place: Path, held: Mapping[str, Any], source: Mapping[str, Any], group: int
) -> None:
    """The files of a ConfigMap or Secret: root's, and readable by fsGroup if there is one."""
    decode = base64.b64decode if held["kind"] == "Secret" else str.encode
    items = source.get("items") or [{"key": key, "path": key} for key in held["data"]]
    for item in items:
        path = place / item["path"]
        path.write_bytes(decode(held["data"][item["key"]]))
        os.chown(path, 0, group)
        mode = item.get("mode", source.get("defaultMode", 0o644))
        path.chmod(mode | (0o440 if group else 0))
