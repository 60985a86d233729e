"""Start `python -m app train ARGUMENTS...` as coordinator, workers and parameter servers.

    launch/parameter_servers.sh [-w WORKERS] [-s SERVERS] [OPTIONS] train ARGUMENTS...

Each process has an agent (rank.py), as a rank has, and TF_CONFIG, which tells it its part
(app/distributed/launcher.py). They are watched by tasks.py.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.commands.doctor import add_host_options, ends_what_it_started, hosts_of
from app.commands.parser import Parser, whole_number
from app.distributed.launcher import COORDINATOR, ROLES, SERVER, TF_CONFIG, WORKER
from app.doctor.hosts import BY_CONFIGURATION, Host, make_ssh
from app.errors import UserError
from launch import commands, gloo, reach
from launch.commands import Placement
from launch.parts import Slot
from launch.script import exit_code
from launch.tasks import Tasks

WORKERS, SERVERS = 2, 1
# On other hosts, where we cannot look for free ones; below those that the kernel gives out.
FIRST_PORT = 23400


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The launcher's options, and from the first word that is not one of them, the arguments."""
    usage = (__doc__ or "").splitlines()[2].strip()
    parser = Parser(prog="launch/parameter_servers.sh", usage=usage, allow_abbrev=False)
    count = whole_number(1, 10_000)
    parser.add_argument(
        "-w",
        type=count,
        dest="workers",
        metavar="WORKERS",
        help=f"processes that compute [one for each slot of the hosts; without hosts {WORKERS}]",
    )
    parser.add_argument(
        "-s",
        type=count,
        default=SERVERS,
        dest="servers",
        metavar="SERVERS",
        help=f"processes that hold the variables [{SERVERS}]",
    )
    add_host_options(parser)
    parser.add_argument(
        "--port",
        type=whole_number(1024, 65535),
        metavar="PORT",
        help=f"the first of as many ports as there are processes [free ones; on hosts "
        f"{FIRST_PORT}]",
    )
    parser.add_argument(
        "--wait",
        type=whole_number(0),
        default=0,
        metavar="SECONDS",
        help="how long hosts may take to come up [0]",
    )
    parser.add_argument(
        "--heartbeat-s",
        type=whole_number(1, 30),
        default=30,
        metavar="S",
        help="a process without word for so long is lost [30]",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed to python -m app")
    options = parser.parse_args(list(arguments))
    if options.arguments[:1] != ["train"]:
        raise UserError(f"parameter servers are for the command train. Usage: {usage}")
    return options


def deal(workers: int | None, servers: int, hosts: Sequence[Host]) -> list[Slot]:
    """Where each task runs, in the order of their numbers: the coordinator on the first host, the
    workers host by host, the servers on one host after the other.

    Raises UserError if there are fewer slots than workers.
    """
    slots = [host.name for host in hosts for _ in range(host.slots)]
    number = workers or len(slots)
    if number > len(slots):
        raise UserError(f"{number} workers, but the hosts have {len(slots)} slots")
    chosen, seen = slots[:number], dict.fromkeys(slots, 0)
    placed = [Slot(COORDINATOR, 0, hosts[0].name)]
    for index, host in enumerate(chosen):
        placed.append(Slot(WORKER, index, host, seen[host], chosen.count(host)))
        seen[host] += 1
    return placed + [Slot(SERVER, i, hosts[i % len(hosts)].name) for i in range(servers)]


def configs(slots: Sequence[Slot], addresses: Mapping[str, str], ports: Sequence[int]) -> list[str]:
    """TF_CONFIG of each task. `addresses`: of the hosts; `ports`: of the tasks."""
    cluster: dict[str, list[str]] = {role: [] for role in ROLES}
    for slot, port in zip(slots, ports, strict=True):
        cluster[slot.role].append(f"{addresses[slot.host]}:{port}")
    return [
        json.dumps({"cluster": cluster, "task": {"type": slot.role, "index": slot.index}})
        for slot in slots
    ]


def free_ports(number: int, address: str) -> list[int]:
    """Ports of this host that nobody uses now."""
    taken = [socket.create_server((address, 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


def run(options: argparse.Namespace) -> int:
    """Start all, and watch them to their end; returns the exit code."""
    commands.check_safe(None, options.network_interface)
    hosts = hosts_of(options)
    if hosts:
        identity = options.ssh_identity and os.path.abspath(options.ssh_identity)
        ssh = make_ssh(options.ssh_port, identity and Path(identity))
        with ends_what_it_started():
            found = reach.addresses(hosts, ssh, options.network_interface, options.wait)
        interface, addresses = found
    else:
        hosts, ssh = [Host("localhost", options.workers or WORKERS)], BY_CONFIGURATION
        interface = options.network_interface
        addresses = {"localhost": gloo.own_address(interface)}
    slots = deal(options.workers, options.servers, hosts)
    if options.port or not all(gloo.is_local(host.name) for host in hosts):
        first = options.port or FIRST_PORT
        ports = list(range(first, first + len(slots)))
        if ports[-1] > 65535:
            raise UserError(f"--port {first}: {len(slots)} processes need as many ports after it")
    else:
        ports = free_ports(len(slots), addresses[hosts[0].name])
    placement = Placement(hosts, ssh, interface)
    environ = dict(os.environ)
    if sys.stdout.isatty() and gloo.is_local(hosts[0].name):
        environ["LOCKSTEP_TERMINAL"] = os.ttyname(sys.stdout.fileno())
    environ = commands.rank_environment(environ, placement, options.arguments, os.getcwd())
    if sys.stderr.isatty() and "--quiet" not in options.arguments:
        print(f"starting {len(slots) - 1 - options.servers} worker(s) ...", file=sys.stderr)
    told = [{TF_CONFIG: config} for config in configs(slots, addresses, ports)]
    return Tasks(placement, slots, environ, told, float(options.heartbeat_s)).run()


def main(arguments: Sequence[str]) -> int:
    """`run`; returns the exit code."""
    return exit_code(lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
