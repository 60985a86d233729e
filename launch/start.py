"""Start `python -m app ARGUMENTS...` on ranks of this machine or of many hosts.

    launch/local.sh [-n N] [--gloo|--mpi] ARGUMENTS...
    launch/hosts.sh (-H HOSTS | --hostfile FILE) [OPTIONS] ARGUMENTS...

Runs horovodrun (gloo) or mpirun (MPI) and watches it: commands.py, supervise.py, report.py.
hosts.sh first asks every host whether it can take ranks (reach.py), so that nobody meets a hang.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from app.commands.doctor import ends_what_it_started
from app.doctor.facts import gpus_named
from app.doctor.hosts import Host, make_ssh, parse_hostfile, parse_hosts
from app.errors import UserError
from launch import commands, reach, supervise
from launch.commands import Place

CPU_RANKS = 2


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are UserErrors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def parse(kind: str, arguments: Sequence[str]) -> argparse.Namespace:
    """The options before the first word that is none, and the arguments from there on."""
    usage = (__doc__ or "").splitlines()[2 if kind == "local" else 3].strip()
    parser = Parser(prog=f"launch/{kind}.sh", usage=usage, allow_abbrev=False)
    if kind == "local":
        parser.add_argument(
            "-n", type=_number, dest="ranks", metavar="N", help=f"ranks [GPUs; else {CPU_RANKS}]"
        )
    else:
        hosts = parser.add_mutually_exclusive_group(required=True)
        hosts.add_argument("-H", "--hosts", metavar="HOST:SLOTS,...", help="gpu1:4,gpu2:4")
        hosts.add_argument(
            "--hostfile", type=Path, metavar="FILE", help="the same, from lines 'HOST slots=N'"
        )
        parser.add_argument("--ssh-port", type=_number, metavar="PORT", help="[ssh's own]")
        parser.add_argument("--ssh-identity", metavar="FILE", help="the private key [ssh's own]")
        parser.add_argument(
            "--network-interface", metavar="NAME", help="[the first that all hosts have]"
        )
        parser.add_argument(
            "--wait", type=_seconds, default=0, metavar="SECONDS", help="for hosts to come up [0]"
        )
    transport = parser.add_mutually_exclusive_group()
    transport.add_argument("--gloo", dest="mpi", action="store_false", help="by horovodrun [this]")
    transport.add_argument("--mpi", action="store_true", help="by mpirun of Open MPI 4.1")
    parser.set_defaults(mpi=False)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of python -m app")
    options = parser.parse_args(list(arguments))
    if not options.arguments:
        raise UserError(f"nothing to run: give a command such as train. Usage: {usage}")
    return options


def _number(given: str) -> int:
    if not given.isdecimal() or not 1 <= int(given) <= 65535:
        raise argparse.ArgumentTypeError(f"'{given}' is no whole number above 0")
    return int(given)


def _seconds(given: str) -> int:
    if not given.isdecimal():
        raise argparse.ArgumentTypeError(f"'{given}' is no whole number of seconds")
    return int(given)


def local(options: argparse.Namespace) -> int:
    """Run on this machine; returns the exit code."""
    ranks = options.ranks or default_ranks(os.environ)
    environ = dict(os.environ)
    if sys.stdout.isatty():
        environ["LOCKSTEP_TERMINAL"] = os.ttyname(sys.stdout.fileno())
    place = Place([Host("localhost", ranks)])
    environ = commands.rank_environment(environ, place, options.arguments, os.getcwd())
    _say_starting(place, options.arguments)
    if options.mpi:
        return _mpirun(place, environ)
    return supervise.run(commands.gloo_command(place), environ, place.host_of_rank)


def hosts(options: argparse.Namespace) -> int:
    """Run on many hosts, if all of them can take ranks; returns the exit code."""
    given = parse_hosts(options.hosts) if options.hosts is not None else None
    chosen = given or parse_hostfile(options.hostfile)
    identity = options.ssh_identity and os.path.abspath(options.ssh_identity)
    commands.check_safe(identity, options.network_interface)
    commands.check_gpus(os.environ, chosen, socket.gethostname())
    ssh = make_ssh(options.ssh_port, identity and Path(identity))
    with ends_what_it_started():
        interface = reach.check(chosen, ssh, options.network_interface, options.wait)
    place = Place(chosen, ssh, interface)
    environ = commands.rank_environment(os.environ, place, options.arguments, os.getcwd())
    environ.pop("LOCKSTEP_TERMINAL", None)
    _say_starting(place, options.arguments)
    if options.mpi:
        return _mpirun(place, environ)
    command = commands.gloo_command(place)
    return supervise.run(command, commands.for_horovodrun(environ), place.host_of_rank)


def _check_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the working directory is gone ({error.strerror}): cd to one") from None


def _say_starting(place: Place, arguments: Sequence[str]) -> None:
    """It takes horovodrun some seconds until a rank can speak; nobody needs this in a log."""
    if sys.stderr.isatty() and "--quiet" not in arguments:
        where = f" on {len(place.hosts)} hosts" if len(place.hosts) > 1 else ""
        print(f"starting {place.ranks} rank(s){where} ...", file=sys.stderr)


def _mpirun(place: Place, environ: Mapping[str, str]) -> int:
    if shutil.which("mpirun") is None:
        raise UserError("mpirun is missing: install Open MPI 4.1 (Debian: openmpi-bin), or --gloo")
    cores = len(os.sched_getaffinity(0))
    command = commands.mpi_command(place, environ, cores, is_root=os.geteuid() == 0)
    return supervise.run(command, environ, place.host_of_rank)


def default_ranks(environ: Mapping[str, str]) -> int:
    """One for each visible GPU; without any, two, or one on a machine of one core."""
    return visible_gpus(environ) or min(CPU_RANKS, len(os.sched_getaffinity(0)))


def visible_gpus(environ: Mapping[str, str]) -> int:
    """How many GPUs ranks will see, without importing TensorFlow."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return gpus_named(visible)
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return len(list(Path("/dev").glob("nvidia[0-9]*")))
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def main(arguments: Sequence[str]) -> int:
    """Run `local` or `hosts`, the first argument; returns the exit code."""
    kind, *rest = arguments
    try:
        options = parse(kind, rest)
        _check_directory()
        return local(options) if kind == "local" else hosts(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
