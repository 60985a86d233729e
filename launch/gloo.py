"""What horovodrun does for ranks over gloo, without its own start: the server at which they
meet, the environment variables of each rank, and the command that starts its agent.
"""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil  # Horovod needs it too

from app.doctor.hosts import is_here
from app.errors import UserError
from launch.commands import RANK, Placement, forwarded
from launch.rank import ON_STDIN

LOOPBACK = "lo"
HOME = Path(__file__).resolve().parent.parent


def interface_addresses() -> dict[str, str]:
    """The IPv4 address of each network interface of this host."""
    return {
        name: address.address
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET
    }


def own_address(interface: str | None) -> str:
    """Where ranks reach this host. `interface`: None if all of them run here."""
    try:
        return interface_addresses()[interface] if interface else "127.0.0.1"
    except KeyError:
        raise UserError(f"the interface {interface} of this host has no IPv4 address") from None


def rank_variables(placement: Placement) -> list[dict[str, str]]:
    """Start the server at which ranks meet; what Horovod wants to know in each rank."""
    # Slow to import, and not needed under MPI.
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.gloo_run import create_slot_env_vars
    from horovod.runner.http.http_server import RendezvousServer

    plan = get_host_assignments(parse_hosts(placement.listed), placement.ranks)
    server = RendezvousServer()
    port = server.start()
    server.init(plan)
    interface = placement.interface or LOOPBACK
    shared = {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": own_address(placement.interface),
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": interface,
        "PYTHONUNBUFFERED": "1",
    }
    return [{**shared, **create_slot_env_vars(slot)} for slot in plan]


def is_local(host: str) -> bool:
    """Whether a rank on this host needs no ssh."""
    here = {"hostname": socket.gethostname(), "interfaces": interface_addresses()}
    return is_here(host, here)


def over_ssh(placement: Placement, host: str) -> list[str]:
    """How the agent of a rank starts on another host; its environment goes to its input."""
    # Python finds `launch` in the directory; the environment comes too late for PYTHONPATH.
    remote = f"cd {shlex.quote(str(HOME))} && exec {shlex.quote(sys.executable)} -m {RANK[-1]}"
    return [*placement.ssh.command(host), f"{remote} {ON_STDIN}"]


def for_other_hosts(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that ranks on other hosts get."""
    return {name: environ[name] for name in forwarded(environ)}
