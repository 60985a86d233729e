"""Ranks on hosts joined by links of a stated speed: network namespaces on this machine.

Each host has a link of its own to a bridge, shaped in both directions by a token bucket (`tc tbf`);
what the hosts compute they share: this machine's cores. Needs root, iproute2 and, for MPI, Open
MPI. The namespaces go when the block ends, with all that runs in them.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.doctor.hosts import Host
from launch.commands import RANK, Placement, mpi_command
from launch.worlds import Worlds
from tests.cluster.namespaces import Network, why_not

UNSHAPED = "10gbit"  # about what the bridge carries between two processes
ROOT = Path(__file__).resolve().parents[2]
INTERFACE = "eth0"
# Enough for a few milliseconds at 1 Gbit; the queue is what a small switch has.
BUCKET = ["burst", "256kbit", "latency", "50ms"]


@contextlib.contextmanager
def hosts_with_links(hosts: int, rate: str) -> Iterator[Network]:
    """Hosts h1, h2, ... with links of a rate as `tc` writes it, such as "200mbit"."""
    if reason := why_not():
        raise SystemExit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the block ends then too
    with Network([f"h{number + 1}" for number in range(hosts)]) as network:
        if rate != UNSHAPED:
            for index, name in enumerate(network.names):
                _shape(network.namespace(name), INTERFACE, rate)
                _shape(network.namespace("bridge"), f"port{index}", rate)
        yield network


def _shape(namespace: str, device: str, rate: str) -> None:
    command = ["tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", "rate", rate]
    subprocess.run([*command, *BUCKET], check=True)


def run_ranks(
    network: Network, per_host: int, transport: str, command: Sequence[str], timeout_s: float
) -> None:
    """Run a command as `per_host` ranks on each host; raises CalledProcessError if one fails."""
    bin_folder = Path(sys.executable).parent
    environ = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    slots = {name: per_host for name in network.names}
    with tempfile.TemporaryDirectory() as folder:
        if transport == "mpi":
            starter = _mpi(network, slots, environ, Path(folder), command)
        else:
            enter = {name: network.command(name) for name in network.names}
            about = json.dumps({"slots": slots, "enter": enter, "command": list(command)})
            starter = [sys.executable, "-m", "tests.benchmarks.links", about]
        first = network.command(network.names[0], *starter)
        subprocess.run(first, check=True, env=environ, cwd=ROOT, timeout=timeout_s)


def _mpi(network, slots, environ, folder: Path, command: Sequence[str]) -> list[str]:
    """mpirun on the first host; where it would call ssh, it enters the other's namespace."""
    agent = folder / "enter"
    rows = [f"{name}) set -- {' '.join(map(_quoted, network.command(name)))} \"$@\";;"
            for name in network.names]  # fmt: skip
    script = ["#!/bin/sh", "host=$1; shift", 'set -- sh -c "$*"', 'case "$host" in', *rows]
    agent.write_text("\n".join([*script, "esac", 'exec "$@"', ""]))
    agent.chmod(0o700)
    start = mpi_command(_placement(slots), environ, cores=0, is_root=True)[: -len(RANK)]
    # Nothing on a host can be reached but by its link; the session's files are this machine's.
    return [*start, "-mca", "plm_rsh_agent", str(agent), *command]


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _placement(slots: dict[str, int]) -> Placement:
    return Placement([Host(name, number) for name, number in slots.items()], interface=INTERFACE)


def _start_gloo(slots: dict[str, int], enter: dict[str, list[str]], command: list[str]) -> int:
    """On the first host: start the ranks, and end all of them if one fails; returns its code."""
    placement = _placement(slots)
    told = Worlds(placement.interface).open(placement.host_of_rank)
    ranks = [
        subprocess.Popen([*enter[host], *command], env={**os.environ, **variables})
        for host, variables in zip(placement.host_of_rank, told, strict=True)
    ]
    try:
        while True:
            codes = [rank.poll() for rank in ranks]
            failed = [code for code in codes if code]
            if failed or None not in codes:
                return failed[0] if failed else 0
            time.sleep(0.1)
    finally:
        for rank in ranks:
            rank.kill()


if __name__ == "__main__":
    about = json.loads(sys.argv[1])
    sys.exit(_start_gloo(about["slots"], about["enter"], about["command"]))
