"""Hosts of a network of their own on this machine: network namespaces on one bridge.

Each has an `eth0`, an address, its own /etc/hosts and its own host name; files and processes are
this machine's. Nothing of the machine's own network is touched: the bridge lives in a namespace
too. Needs root and iproute2.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# lockstep-PID-NAME, with the process that made it, so that another one can tell a leftover.
NAMESPACE = re.compile(r"lockstep-(\d+)-[\w-]+")
SUBNET = "10.77.0"
NETNS_ETC = Path("/etc/netns")


def why_not() -> str | None:
    """Why there can be no namespaces here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "network namespaces need ip (Debian: iproute2) and unshare"
    name = f"lockstep-{os.getpid()}-probe"
    probe = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if probe.returncode:
        return f"no network namespaces here: {probe.stderr.strip()}"
    _remove(name)
    return None


class Network:
    """Hosts by name, joined by a bridge. `aliases`: further names of a host, for /etc/hosts.

    Use it in a `with` block: at its end all processes in the namespaces are killed, and the
    namespaces removed, as are those of test runs that crashed.
    """

    def __init__(self, names: Sequence[str], aliases: Mapping[str, Sequence[str]] | None = None):
        self.names = list(names)
        self._aliases = aliases or {}
        self._bridge = self.namespace("bridge")

    def namespace(self, name: str) -> str:
        """The name of a host's namespace, for `ip netns`; its path is /run/netns/..."""
        return f"lockstep-{os.getpid()}-{name}"

    def address(self, name: str) -> str:
        """The IPv4 address of a host's eth0."""
        return f"{SUBNET}.{self.names.index(name) + 1}"

    def hosts_file(self) -> str:
        """What every host has as /etc/hosts."""
        rows = [
            " ".join([self.address(name), name, *self._aliases.get(name, ())])
            for name in self.names
        ]
        return "\n".join(["127.0.0.1 localhost", *rows, ""])

    def etc(self, name: str) -> Path:
        """What lies in this folder hides its namesake in the host's /etc."""
        return NETNS_ETC / self.namespace(name)

    def command(self, name: str, *command: str) -> list[str]:
        """The command line that runs a command on a host, under its host name."""
        inside = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name, *command]
        return ["ip", "netns", "exec", self.namespace(name), *inside]

    def processes(self, name: str) -> list[int]:
        """The ids of the processes on a host."""
        return _processes(self.namespace(name))

    def add_interface(self, host: str, name: str, address: str) -> None:
        """Give a host one more interface, which leads nowhere."""
        namespace = self.namespace(host)
        _ip("-n", namespace, "link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
        _ip("-n", namespace, "addr", "add", address, "dev", name)

    @contextlib.contextmanager
    def cut_off(self, name: str) -> Iterator[None]:
        """A block in which a host is off the network, as if its cable were pulled."""
        _ip("-n", self.namespace(name), "link", "set", "eth0", "down")
        try:
            yield
        finally:
            _ip("-n", self.namespace(name), "link", "set", "eth0", "up")

    def __enter__(self) -> "Network":
        remove_leftovers()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> None:
        _ip("netns", "add", self._bridge)
        _ip("-n", self._bridge, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._bridge, "link", "set", "br0", "up")
        for index, name in enumerate(self.names):
            namespace, port = self.namespace(name), f"port{index}"
            self.etc(name).mkdir(parents=True)
            (self.etc(name) / "hosts").write_text(self.hosts_file())
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
            link = ["link", "add", "eth0", "netns", namespace, "type", "veth"]
            _ip("-n", self._bridge, *link, "peer", "name", port)
            _ip("-n", namespace, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "eth0", "up")
            _ip("-n", self._bridge, "link", "set", port, "master", "br0", "up")

    def close(self) -> None:
        """Kill what runs in the namespaces, and remove them."""
        for name in [*self.names, "bridge"]:
            _remove(self.namespace(name))


def remove_leftovers() -> None:
    """Remove the namespaces of test runs that are over."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    names = {line.split()[0] for line in listed.splitlines() if line.split()}
    if NETNS_ETC.is_dir():
        names |= {folder.name for folder in NETNS_ETC.iterdir()}
    for name in names:
        made_by = NAMESPACE.fullmatch(name)
        if made_by and not Path(f"/proc/{made_by[1]}").exists():
            _remove(name)


def _remove(namespace: str) -> None:
    for pid in _processes(namespace):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True)
    shutil.rmtree(NETNS_ETC / namespace, ignore_errors=True)


def _processes(namespace: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
