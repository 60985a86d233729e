"""Three hosts with sshd on port 2222, reached with a throw-away key; and jobs in pods."""

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.manifests import K8S, training_job
from tests.cluster.namespaces import Network, why_not
from tests.cluster.rehearsal import Cluster, build_image, copied_overlay, rehearse
from tests.integration.launching import ROOT, Finished, run

PORT = 2222
SSHD = "/usr/sbin/sshd"
WORKER = "job-worker-{}.job.default.svc"
SSHD_CONFIG = """\
Port {port}
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
"""
POD_CONFIG = """\
Host *.svc
  Port 2222
  IdentityFile {key}
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
"""


class Hosts:
    """h1, h2 and h3 on a network; sshd runs where `start_sshd` was called."""

    def __init__(self, network: Network, folder: Path):
        self.network = network
        self.key = folder / "key"
        self._folder = folder
        self._sshd: dict[str, subprocess.Popen] = {}
        _keygen(self.key)
        _keygen(folder / "host_key")
        public = (folder / "host_key.pub").read_text()
        for name in network.names:
            etc = network.etc(name) / "ssh"
            etc.mkdir()
            for file in ("host_key", "host_key.pub"):
                shutil.copy(folder / file, etc)
            shutil.copy(folder / "key.pub", etc / "authorized_keys")
            (etc / "sshd_config").write_text(SSHD_CONFIG.format(port=PORT))
            known = [f"[{other}]:{PORT} {public}" for other in network.names]
            (etc / "ssh_known_hosts").write_text("".join(known))
        # h3 is set up as the launcher pod of an MPIJob is.
        (network.etc("h3") / "ssh" / "ssh_config").write_text(POD_CONFIG.format(key=self.key))

    def start_sshd(self, name: str) -> None:
        """Start a host's sshd; returns when it accepts connections."""
        Path("/run/sshd").mkdir(exist_ok=True)
        log = (self._folder / f"sshd-{name}.log").open("ab")
        command = self.network.command(name, SSHD, "-D", "-e")
        self._sshd[name] = subprocess.Popen(command, stdout=log, stderr=log)
        probe = f"import socket; socket.create_connection(('localhost', {PORT}), 1)"
        probing = self.network.command(name, sys.executable, "-c", probe)
        for _ in range(50):
            if subprocess.run(probing, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError(Path(log.name).read_text())

    def stop_sshd(self, name: str) -> None:
        """End a host's sshd, so that its port is closed; sessions go on."""
        self._sshd.pop(name).kill()

    @contextlib.contextmanager
    def without_sshd(self, name: str) -> Iterator[None]:
        """A block in which a host's sshd does not run."""
        self.stop_sshd(name)
        try:
            yield
        finally:
            self.start_sshd(name)

    def launch(self, *arguments: str, timeout_s: float, at: str = "h1", **environ: str) -> Finished:
        """Run launch/hosts.sh on a host, with the port and the key of these hosts."""
        options = ["--ssh-port", str(PORT)]
        if "--ssh-identity" not in arguments:
            options += ["--ssh-identity", str(self.key)]
        return self.script("hosts", *options, *arguments, timeout_s=timeout_s, at=at, **environ)

    def script(
        self, name: str, *arguments: str, timeout_s: float, at: str, **environ: str
    ) -> Finished:
        """Run launch/NAME.sh on a host."""
        command = self.network.command(at, str(ROOT / "launch" / f"{name}.sh"), *arguments)
        return run(command, timeout_s=timeout_s, LOCKSTEP_VENV=sys.prefix, **environ)

    def processes(self, name: str, module: str) -> list[int]:
        """The Python processes of `python -m MODULE` on a host."""
        wanted = f"\0-m\0{module}\0".encode()
        return [
            pid
            for pid in self.network.processes(name)
            if (line := _command_line(pid)).startswith((sys.prefix.encode(), b"python"))
            and wanted in line
        ]

    def running(self, name: str) -> list[int]:
        """The processes on a host, without sshd and its sessions."""
        pids = self.network.processes(name)
        return [pid for pid in pids if (line := _command_line(pid)) and b"sshd" not in line]

    def left_behind(self) -> list[str]:
        """What still runs on the hosts; waits for it to end. Daemons of mpirun whose launcher is
        gone take twice TERM_TO_KILL_S of launch/commands.py."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            pids = [(name, pid) for name in self.network.names for pid in self.running(name)]
            if not pids:
                return []
            time.sleep(0.2)
        return [f"{name}: {_command_line(pid)!r}" for name, pid in pids]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _keygen(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory) -> Iterator[Hosts]:
    """Hosts with sshd."""
    reason = why_not()
    if not reason and not Path(SSHD).exists():
        reason = "no sshd (Debian: openssh-server)"
    if reason:
        pytest.skip(reason)
    aliases = {"h1": [WORKER.format(0)], "h2": [WORKER.format(1)]}
    with Network(["h1", "h2", "h3"], aliases) as network:
        hosts = Hosts(network, tmp_path_factory.mktemp("ssh"))
        for name in network.names:
            hosts.start_sshd(name)
        yield hosts


@pytest.fixture(scope="session")
def image() -> str:
    """The CPU target of the Dockerfile."""
    return build_image()


@pytest.fixture(scope="session")
def jobs(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Cluster]]:
    """The job of overlays/cpu, that of a copy of it with one worker, and that of overlays/elastic;
    no pod runs yet."""
    folder = tmp_path_factory.mktemp("cluster")
    mine = copied_overlay(tmp_path_factory.mktemp("copy"), "cpu", "mine")
    mine["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"] = 1
    ours = [training_job(K8S / "overlays" / name) for name in ("cpu", "elastic")]
    with rehearse(image, folder, [ours[0], mine, ours[1]]) as jobs:
        yield jobs


@pytest.fixture(scope="session")
def cluster(jobs: list[Cluster]) -> Cluster:
    """The job of overlays/cpu, whose workers are ready."""
    jobs[0].start_workers()
    jobs[0].wait_for_workers()
    return jobs[0]
