"""How agents of ranks over gloo start, here and over ssh, and where they reach this host.

What else horovodrun would do is in worlds.py.
"""

from __future__ import annotations

import functools
import json
import os
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


@functools.cache
def is_local(host: str) -> bool:
    """Whether a rank on this host needs no ssh."""
    here = {"hostname": socket.gethostname(), "interfaces": interface_addresses()}
    return is_here(host, here)


def over_ssh(placement: Placement, host: str) -> list[str]:
    """How the agent of a rank starts on another host; its environment goes to its input."""
    # Python finds `launch` in the directory; the environment comes too late for PYTHONPATH.
    remote = f"cd {shlex.quote(str(HOME))} && exec {shlex.quote(sys.executable)} -m {RANK[-1]}"
    return [*placement.ssh.command(host), f"{remote} {ON_STDIN}"]


def agent(
    placement: Placement, host: str, environ: Mapping[str, str], secret: Mapping[str, str]
) -> tuple[list[str], dict[str, str], bytes]:
    """How the agent of a rank starts: the command, its environment, and what it is given on its
    input, where nobody else can read it: what is secret, and over ssh the whole environment."""
    if is_local(host):
        return [*RANK, ON_STDIN], dict(environ), _line(secret)
    return (
        over_ssh(placement, host),
        dict(os.environ),
        _line({**for_other_hosts(environ), **secret}),
    )


def _line(variables: Mapping[str, str]) -> bytes:
    return json.dumps(variables).encode() + b"\n"


def for_other_hosts(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that ranks on other hosts get."""
    return {name: environ[name] for name in forwarded(environ)}
