"""Start `python -m app ARGUMENTS...` on ranks of this machine or of many hosts.

    launch/local.sh [-n N] [--gloo|--mpi] [OPTIONS] ARGUMENTS...
    launch/hosts.sh (-H HOSTS | --hostfile FILE | --discovery SCRIPT) [OPTIONS] ARGUMENTS...

Starts an agent for each rank (rank.py), itself over gloo (gloo.py) or with mpirun (commands.py),
and watches them (supervise.py, watch.py, report.py). In training over gloo, ranks are recovered
from failures, leave and join (elastic.py, policy.py).
hosts.sh first asks every host whether it can run ranks (reach.py), so that a launch never hangs.
"""

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.commands.doctor import add_host_options, ends_what_it_started, hosts_of
from app.commands.parser import Parser, whole_number
from app.doctor.facts import gpus_named
from app.doctor.hosts import Host, make_ssh
from app.doctor.software import count_gpus
from app.errors import UserError
from launch import commands, gloo, reach
from launch.commands import Placement
from launch.discovery import ask_script, of_hostfile, of_script
from launch.elastic import Elastic
from launch.line import LINE_VARIABLE
from launch.places import Slot
from launch.script import exit_code
from launch.state import Terms
from launch.supervise import Supervisor
from launch.worlds import Worlds

CPU_RANKS = 2


def parse(kind: str, arguments: Sequence[str]) -> argparse.Namespace:
    """The launcher's options, and from the first word that is not one of them, the arguments."""
    usage = (__doc__ or "").splitlines()[2 if kind == "local" else 3].strip()
    parser = Parser(prog=f"launch/{kind}.sh", usage=usage, allow_abbrev=False)
    if kind == "local":
        parser.add_argument(
            "-n",
            type=whole_number(1, 65535),
            dest="ranks",
            metavar="N",
            help=f"ranks [one per GPU; without GPUs {CPU_RANKS}]",
        )
    else:
        add_host_options(parser)
        parser.add_argument(
            "--discovery",
            type=Path,
            metavar="SCRIPT",
            help="instead: prints lines 'HOST:SLOTS', and is asked again while training goes on",
        )
        parser.add_argument(
            "--slots-per-host",
            type=whole_number(1, 999999),
            default=1,
            metavar="N",
            help="where the script prints none [1]",
        )
        parser.add_argument(
            "--wait",
            type=whole_number(0),
            default=0,
            metavar="SECONDS",
            help="how long hosts may take to come up [0]",
        )
    _add_elastic_options(parser)
    transport = parser.add_mutually_exclusive_group()
    transport.add_argument("--gloo", dest="mpi", action="store_false", help="use gloo [default]")
    transport.add_argument("--mpi", action="store_true", help="use mpirun of Open MPI 4.1")
    parser.set_defaults(mpi=False)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed to python -m app")
    options = parser.parse_args(list(arguments))
    if not options.arguments:
        raise UserError(f"nothing to run: give a command such as train. Usage: {usage}")
    if kind == "hosts":
        given = [options.hosts, options.hostfile, options.discovery]
        if sum(value is not None for value in given) != 1:
            raise UserError("give one of the arguments -H/--hosts --hostfile --discovery")
    return options


def _add_elastic_options(parser: argparse.ArgumentParser) -> None:
    """What training over gloo may do when ranks fail, leave and join."""
    ranks = whole_number(1, 65535)
    parser.add_argument(
        "--min-ranks", type=ranks, metavar="N", help="with fewer, training does not go on [1]"
    )
    parser.add_argument(
        "--max-ranks", type=ranks, metavar="N", help="more do not join [as many as are started]"
    )
    parser.add_argument(
        "--heartbeat-s",
        type=whole_number(1, 30),
        metavar="S",
        help="a rank without word for so long is lost [30]",
    )


def elastic_terms(options: argparse.Namespace, ranks: int) -> Terms | None:
    """What elastic training may do; None for what is not elastic. Raises UserError."""
    given = (options.min_ranks, options.max_ranks, options.heartbeat_s)
    if options.mpi or options.arguments[0] != "train":
        if any(given):
            raise UserError(
                "--min-ranks, --max-ranks and --heartbeat-s are for the command train over gloo"
            )
        return None
    terms = Terms(ranks, options.max_ranks or ranks, options.min_ranks or 1)
    if not terms.min_ranks <= ranks <= terms.max_ranks:
        raise UserError(
            f"{ranks} rank(s) would be started: expected from --min-ranks {terms.min_ranks} "
            f"to --max-ranks {terms.max_ranks}"
        )
    return terms._replace(heartbeat_s=options.heartbeat_s or terms.heartbeat_s)


def local(options: argparse.Namespace) -> int:
    """Run on this machine; returns the exit code."""
    ranks = options.ranks or default_ranks(os.environ)
    environ = dict(os.environ)
    if sys.stdout.isatty():
        environ["LOCKSTEP_TERMINAL"] = os.ttyname(sys.stdout.fileno())
    terms = elastic_terms(options, ranks)
    placement = Placement([Host("localhost", ranks)])
    environ = commands.rank_environment(environ, placement, options.arguments, os.getcwd())
    _say_starting(placement, options.arguments)
    if terms:
        places = [Slot("localhost", slot, terms.max_ranks) for slot in range(terms.max_ranks)]
        return Elastic(placement, places, terms, environ).run()
    return _run(placement, environ, options.mpi)


def hosts(options: argparse.Namespace) -> int:
    """Run on many hosts, if all of them can run ranks; returns the exit code."""
    script, per_host = options.discovery, options.slots_per_host
    chosen = ask_script(script, per_host) if script else hosts_of(options)
    terms = elastic_terms(options, sum(host.slots for host in chosen))
    identity = options.ssh_identity and os.path.abspath(options.ssh_identity)
    commands.check_safe(identity, options.network_interface)
    commands.check_gpus(os.environ, chosen, socket.gethostname())
    ssh = make_ssh(options.ssh_port, identity and Path(identity))
    with ends_what_it_started():
        interface = reach.check(chosen, ssh, options.network_interface, options.wait)
    placement = Placement(chosen, ssh, interface)
    environ = commands.rank_environment(os.environ, placement, options.arguments, os.getcwd())
    environ.pop("LOCKSTEP_TERMINAL", None)
    _say_starting(placement, options.arguments)
    if terms:
        places = [Slot(h.name, slot, h.slots) for h in chosen for slot in range(h.slots)]
        look = of_script(script, per_host).found if script else None
        if options.hostfile:
            look = of_hostfile(options.hostfile).found
        return Elastic(placement, places, terms, environ, look).run()
    return _run(placement, environ, options.mpi)


def _say_starting(placement: Placement, arguments: Sequence[str]) -> None:
    """Fills the seconds until the first rank can print; not needed in a log."""
    if sys.stderr.isatty() and "--quiet" not in arguments:
        where = f" on {len(placement.hosts)} hosts" if len(placement.hosts) > 1 else ""
        print(f"starting {placement.ranks} rank(s){where} ...", file=sys.stderr)


def _run(placement: Placement, environ: Mapping[str, str], mpi: bool) -> int:
    """Start the agent of each rank, and watch them to their end."""
    if mpi and shutil.which("mpirun") is None:
        raise UserError(
            "mpirun is missing: install Open MPI 4.1 (Debian: openmpi-bin), or use --gloo"
        )
    supervisor = Supervisor(placement.host_of_rank, gloo.own_address(placement.interface))
    if mpi:
        environ = {**environ, LINE_VARIABLE: supervisor.line}
        cores = len(os.sched_getaffinity(0))
        command = commands.mpi_command(placement, environ, cores, is_root=os.geteuid() == 0)
        supervisor.start(None, command, environ)
        return supervisor.run()
    worlds = Worlds(placement.interface)
    variables = worlds.open(placement.host_of_rank)
    for rank, (host, own) in enumerate(zip(placement.host_of_rank, variables, strict=True)):
        line = {LINE_VARIABLE: supervisor.line}
        command, whole, given = gloo.agent(placement, host, {**environ, **own}, line)
        supervisor.start(rank, command, whole, given)
    return supervisor.run()


def default_ranks(environ: Mapping[str, str]) -> int:
    """One for each visible GPU; without GPUs two, or one on a machine with one core."""
    return visible_gpus(environ) or min(CPU_RANKS, len(os.sched_getaffinity(0)))


def visible_gpus(environ: Mapping[str, str]) -> int:
    """How many GPUs ranks will see, without importing TensorFlow."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    return count_gpus() if visible is None else gpus_named(visible)


def main(arguments: Sequence[str]) -> int:
    """Run `local` or `hosts`, the first argument; returns the exit code."""
    kind, *rest = arguments
    start = local if kind == "local" else hosts
    return exit_code(lambda: start(parse(kind, rest)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
