"""Kubernetes' pods on this machine: podman runs each Pod object in a network namespace of its own.

What the kubelet would do is translated or refused, never left out in silence. Not imitated:
probes (the tests ask for readiness themselves), and shares of CPU: each pod has one core. Needs
root.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.cluster.namespaces import Network, why_not
from tests.cluster.pod_fields import (
    OF_CONTAINER,
    OF_POD,
    WITHOUT_MEANING_HERE,
    binary,
    only,
    security,
    writable,
    write_items,
)
from tests.integration.launching import PATIENCE

PODMAN = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
TOOLS = {"podman": "podman", "runc": "runc", "buildah": "buildah", "debootstrap": "debootstrap"}
# lockstep-PID-NAME, as the namespaces: another test run can tell a leftover.
GRACE_S = 30  # from SIGTERM to SIGKILL, unless a pod says otherwise
MESSAGE_PATH = "/dev/termination-log"  # Kubernetes' default
CONTAINER = re.compile(r"lockstep-(\d+)-[\w.-]+")


def missing() -> str | None:
    """Why there can be no pods here, or None."""
    absent = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if absent:
        return f"pods need {', '.join(absent)} (Debian: apt-get install {' '.join(absent)})"
    return why_not()


class Kubelet:
    """Runs Pod objects. The hosts of the network have the names of the pods.

    `claims`: the directory of each PersistentVolumeClaim. `objects`: the ConfigMaps and Secrets
    that pods mount. At the end of its `with` block all containers are gone.
    """

    def __init__(
        self,
        network: Network,
        image: str,
        folder: Path,
        claims: Mapping[str, Path],
        objects: list[dict[str, Any]],
    ):
        self.network, self._image, self._folder, self._claims = network, image, folder, claims
        self._objects = {(one["kind"], one["metadata"]["name"]): one for one in objects}
        self._mounted: dict[tuple[str, str], list[tuple[Path, Mapping[str, Any], int]]] = {}

    def start(self, pod: Mapping[str, Any]) -> None:
        """Create a pod's container and start it; the same pod may have run before."""
        name = pod["metadata"]["name"]
        self.remove(name)
        podman("run", "--detach", "--name", self.container(name), *self._options(pod))

    def update(self, held: dict[str, Any]) -> None:
        """A ConfigMap or Secret has changed: so do the files in pods, here without delay."""
        key = (held["kind"], held["metadata"]["name"])
        self._objects[key] = held
        for place, source, group in self._mounted.get(key, ()):
            write_items(place, held, source, group)

    def container(self, name: str) -> str:
        """The name of a pod's container."""
        return f"lockstep-{os.getpid()}-{name}"

    def execute(self, name: str, *command: str) -> str:
        """The output of a command in a running pod."""
        return podman("exec", self.container(name), *command)

    def running(self, name: str) -> bool:
        """Does the pod's container run?"""
        return self._inspect(name, "{{.State.Running}}") == "true"

    def exit_code(self, name: str, timeout_s: float) -> int:
        """Wait for the end of a pod; its exit code."""
        deadline = time.monotonic() + PATIENCE * timeout_s
        while self.running(name):
            if time.monotonic() > deadline:
                raise AssertionError(f"no end after {timeout_s} s\n{self.log(name)}")
            time.sleep(0.5)
        return int(self._inspect(name, "{{.State.ExitCode}}"))

    def log(self, name: str) -> str:
        """What a pod has printed so far, both streams."""
        return podman("logs", self.container(name))

    def message(self, name: str) -> str:
        """The termination message of a pod, as `kubectl describe pod` shows it."""
        return self._message_file(name).read_bytes()[-4096:].decode()

    def wait_for(self, name: str, words: str, timeout_s: float) -> None:
        """Return when a pod has printed these words."""
        deadline = time.monotonic() + PATIENCE * timeout_s
        while words not in self.log(name):
            if time.monotonic() > deadline or not self.running(name):
                raise AssertionError(f"{name} did not print {words!r}\n{self.log(name)}")
            time.sleep(0.2)

    def wait_ready(self, pod: Mapping[str, Any], timeout_s: float) -> None:
        """Return when the pod's readiness probe, on a TCP port, succeeds."""
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]
        port = container["readinessProbe"]["tcpSocket"]["port"]
        ports = {one.get("name"): one["containerPort"] for one in container.get("ports", ())}
        address = (self.network.address(name), ports.get(port, port))
        probe = f"import socket; socket.create_connection({address!r}, 1)"
        deadline = time.monotonic() + PATIENCE * timeout_s
        command = self.network.command(name, sys.executable, "-c", probe)
        while subprocess.run(command, capture_output=True).returncode:
            if time.monotonic() > deadline or not self.running(name):
                raise AssertionError(f"{name} is not ready\n{self.log(name)}")
            time.sleep(0.3)

    def kill(self, name: str) -> None:
        """SIGKILL to all processes of a pod: its host is gone, or it was out of memory."""
        podman("kill", self.container(name))

    def stop(self, name: str) -> None:
        """SIGTERM to a pod, and SIGKILL after the grace that Kubernetes gives: it is deleted."""
        podman("stop", "--time", str(GRACE_S), self.container(name))

    def remove(self, name: str) -> None:
        """Delete a pod, if it is there, without grace."""
        podman("rm", "--force", "--time", "0", "--ignore", self.container(name))

    def __enter__(self) -> "Kubelet":
        listed = podman("ps", "--all", "--format", "{{.Names}}").split()
        for name in listed:
            made_by = CONTAINER.fullmatch(name)
            if made_by and not Path(f"/proc/{made_by[1]}").exists():
                podman("rm", "--force", "--time", "0", name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.network.names:
            self.remove(name)

    def _inspect(self, name: str, template: str) -> str:
        return podman("inspect", "--format", template, self.container(name)).strip()

    def _options(self, pod: Mapping[str, Any]) -> Iterator[str]:
        """Podman's options, the image and the arguments, for a Pod object."""
        name, spec = pod["metadata"]["name"], pod["spec"]
        only(spec, OF_POD | WITHOUT_MEANING_HERE, f"pod {name}")
        (container,) = spec["containers"]
        only(container, OF_CONTAINER, f"container of pod {name}")
        hosts = self._folder / "hosts"
        hosts.write_text(self.network.hosts_file())
        yield from ("--network", f"ns:/run/netns/{self.network.namespace(name)}")
        yield from ("--hostname", spec.get("hostname", name), "--volume", f"{hosts}:/etc/hosts:ro")
        yield from ("--no-healthcheck", "--log-driver", "k8s-file", "--pull", "never")
        yield from ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
        yield from ("--stop-timeout", str(spec.get("terminationGracePeriodSeconds", 30)))
        core = self.network.names.index(name) % (os.cpu_count() or 1)
        yield from ("--cpuset-cpus", str(core))
        if memory := container.get("resources", {}).get("limits", {}).get("memory"):
            yield from ("--memory", binary(memory))
        yield from security(spec.get("securityContext", {}), container.get("securityContext", {}))
        yield from self._volumes(pod)
        message = self._message_file(name)
        message.parent.mkdir(parents=True, exist_ok=True)
        message.write_bytes(b"")
        message.chmod(0o666)
        yield from ("--volume", f"{message}:{MESSAGE_PATH}:rw")
        for variable in container.get("env", ()):
            only(variable, {"name", "value"}, f"env of pod {name}")
            yield from ("--env", f"{variable['name']}={variable.get('value', '')}")
        if "workingDir" in container:
            yield from ("--workdir", container["workingDir"])
        if "command" in container:  # Kubernetes' command is Docker's entry point
            yield from ("--entrypoint", json.dumps(container["command"]))
        yield from (self._image, *container.get("args", ()))

    def _message_file(self, pod: str) -> Path:
        return self._folder / pod / "termination-log"

    def _volumes(self, pod: Mapping[str, Any]) -> Iterator[str]:
        spec = pod["spec"]
        group = spec.get("securityContext", {}).get("fsGroup", 0)
        volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
        for mount in spec["containers"][0].get("volumeMounts", ()):
            only(mount, {"name", "mountPath", "readOnly"}, "volumeMount")
            volume = volumes[mount["name"]]
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                size = binary(volume["emptyDir"]["sizeLimit"])
                yield from ("--tmpfs", f"{mount['mountPath']}:size={size},mode=1777,rw,exec")
                continue
            place = self._directory(pod["metadata"]["name"], volume, group)
            mode = "ro" if mount.get("readOnly") or not writable(volume) else "rw"
            yield from ("--volume", f"{place}:{mount['mountPath']}:{mode}")

    def _directory(self, pod: str, volume: Mapping[str, Any], group: int) -> Path:
        """The directory behind a volume, with the owners and modes that the kubelet gives it."""
        only(volume, {"name", "emptyDir", "persistentVolumeClaim", "configMap", "secret"}, "volume")
        if "persistentVolumeClaim" in volume:
            place = self._claims[volume["persistentVolumeClaim"]["claimName"]]
            os.chown(place, 0, group)
            place.chmod(0o2775)
            return place
        place = self._folder / pod / volume["name"]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        os.chown(place, 0, group)
        place.chmod(0o2777)
        for kind, source in (("ConfigMap", "configMap"), ("Secret", "secret")):
            if source in volume:
                named = volume[source].get("name") or volume[source]["secretName"]
                write_items(place, self._objects[kind, named], volume[source], group)
                self._mounted.setdefault((kind, named), []).append((place, volume[source], group))
        return place


def podman(*arguments: str) -> str:
    """Run podman; what it printed, both streams."""
    done = subprocess.run(
        [*PODMAN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise AssertionError(f"podman {' '.join(arguments)}: {done.stdout}")
    return done.stdout
