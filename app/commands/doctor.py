"""What is wrong with this installation, this machine and these hosts, and what to do about it.

    python -m app doctor [--hosts host1:4,host2:4]

It is needed when things are broken. So it imports only Python's standard library, looks at
TensorFlow, Horovod and other hosts through other processes, and never waits forever.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from app.commands.parser import whole_number
from app.doctor.facts import gather
from app.doctor.hosts import (
    BY_CONFIGURATION,
    Host,
    Ssh,
    check_hosts,
    hosts_timeout_s,
    make_ssh,
    parse_hostfile,
    parse_hosts,
)
from app.doctor.machine import (
    check_disk,
    check_limits,
    judge_listening,
    judge_name,
    judge_own_interfaces,
)
from app.doctor.probe import PROBLEM, WARNING, Pending, Result, attempt, stop_all
from app.doctor.software import check_allreduce, check_imports, start_probes
from app.doctor.versions import check_versions, package_names, read_pins
from app.parameter_servers.listening import why_not

QUICK_TIMEOUT_S = 30.0
ALL_IMPORTS_TIMEOUT_S = 200.0
ALL_ALLREDUCES_TIMEOUT_S = 300.0  # two transports, and the time to end one that hangs
WIDTH = 100


def add_host_options(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The hosts and how to reach them; the launch script for hosts takes them too."""
    hosts = parser.add_mutually_exclusive_group(required=required)
    hosts.add_argument("-H", "--hosts", metavar="HOST:SLOTS,...", help="such as gpu1:4,gpu2:4")
    hosts.add_argument(
        "--hostfile", type=Path, metavar="FILE", help="the same, from lines 'HOST slots=N'"
    )
    port = whole_number(1, 65535)
    parser.add_argument("--ssh-port", type=port, metavar="PORT", help="[ssh's own]")
    parser.add_argument(
        "--ssh-identity", type=Path, metavar="FILE", help="the private key [ssh's own]"
    )
    parser.add_argument(
        "--network-interface", metavar="NAME", help="for the ranks [the first that all hosts have]"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """The other hosts to look at, and the form of the report."""
    parser.description = (
        "Check this installation and this machine, and with --hosts other hosts over ssh; print a "
        "line for each finding, with what to do about it."
    )
    add_host_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, not lines")


def run(options: argparse.Namespace) -> int:
    """Check everything and print a line for each result; returns 0, or 1 if there is a problem."""
    hosts = hosts_of(options)
    ssh = make_ssh(options.ssh_port, options.ssh_identity)
    with ends_what_it_started():
        results = check(hosts, ssh, options.network_interface)
        return _print_json(results) if options.json else _print_lines(results)


def hosts_of(options: argparse.Namespace) -> list[Host]:
    """The hosts that `add_host_options` was given. Raises UserError."""
    if options.hosts is not None:
        return parse_hosts(options.hosts)
    return parse_hostfile(options.hostfile) if options.hostfile is not None else []


def check(
    hosts: Sequence[Host], ssh: Ssh = BY_CONFIGURATION, network_interface: str | None = None
) -> Iterator[Result]:
    """All results, as they become known. Slow checks are started first, all at once."""
    probes = start_probes()
    try:
        directory = os.getcwd()
    except OSError as error:
        yield Result(
            PROBLEM, "directory", f"the working directory is gone: {error}", "cd elsewhere"
        )
        os.chdir(directory := "/")
    others = Pending(check_hosts, hosts, ssh, network_interface) if hosts else None
    pins = read_pins()
    facts = gather(package_names(pins), directory)
    limits = Pending(check_limits, facts["cores"], facts["gpus"])
    disk = Pending(check_disk, directory)
    yield from check_versions(platform.python_version(), facts, pins)
    yield from attempt("limits", limits, QUICK_TIMEOUT_S)
    yield from attempt("disk", disk, QUICK_TIMEOUT_S)
    yield judge_name(facts["hostname"], facts["addresses"], len(hosts) > 1)
    yield judge_own_interfaces(facts["interfaces"], network_interface)
    yield judge_listening(why_not())
    if others:
        yield from attempt("hosts", others, hosts_timeout_s(len(hosts)))
    imports = Pending(check_imports, probes, facts["gpus"])
    yield from attempt("imports", imports, ALL_IMPORTS_TIMEOUT_S)
    yield from attempt(
        "allreduce", Pending(check_allreduce, probes, facts["cores"]), ALL_ALLREDUCES_TIMEOUT_S
    )


@contextlib.contextmanager
def ends_what_it_started() -> Iterator[None]:
    """Leave no process behind, even if this one is interrupted or terminated."""

    def terminated(*_: Any) -> None:
        sys.exit(128 + signal.SIGTERM)

    with contextlib.suppress(ValueError):  # only the main thread may set it
        signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        stop_all()


def _print_json(results: Iterator[Result]) -> int:
    found = list(results)
    code = exit_code(found)
    rows = [result._asdict() for result in found]
    print(json.dumps({"exit_code": code, "results": rows}, indent=2))
    return code


def _print_lines(results: Iterator[Result]) -> int:
    """Each result as soon as it is known, then the number of each kind."""
    found = []
    for result in results:
        found.append(result)
        print("\n".join(lines(result)), flush=True)
    counts = [f"{sum(r.status == kind for r in found)} {kind}(s)" for kind in (PROBLEM, WARNING)]
    print(", ".join(counts))
    return exit_code(found)


def exit_code(results: Sequence[Result]) -> int:
    """1 if there is a problem; warnings do not count."""
    return int(any(result.status == PROBLEM for result in results))


def lines(result: Result) -> list[str]:
    """A result as printed: its name and what was found, and below that what to do."""
    margin = " " * 26
    first, *output = result.found.split("\n")
    text = _wrap(first, WIDTH - len(margin)) or [""]
    text += [f"| {line}" for line in output]  # the output of what failed, unchanged
    text += _wrap(f"-> {result.advice}", WIDTH - len(margin)) if result.advice else []
    head = f"{result.status:<8} {result.name:<16} "
    return [head.ljust(len(margin)) + text[0], *(margin + line for line in text[1:])]


def _wrap(text: str, width: int) -> list[str]:
    # Words stay whole, so that commands and paths can be copied.
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
