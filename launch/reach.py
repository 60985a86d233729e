"""Before a launch on other hosts: wait for them, then run the doctor's checks."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from app.commands.doctor import lines
from app.doctor.alike import common_interfaces
from app.doctor.hosts import (
    CONNECT_TIMEOUT_S,
    HOSTS_AT_ONCE,
    Answer,
    Host,
    Ssh,
    ask_all,
    find,
    judge,
)
from app.doctor.machine import judge_own_interfaces
from app.doctor.probe import OK, PROBLEM, Pending, Result
from app.errors import UserError
from launch import pod

LOOPBACK_ADDRESS = "127.0.0.1"
LOOK_EVERY_S = 2.0
FIND_TIMEOUT_S = 2.0 * CONNECT_TIMEOUT_S + 10.0  # ssh -G, the name service, a connection


def check(hosts: Sequence[Host], ssh: Ssh, interface: str | None, wait_s: float) -> str | None:
    """Return the network interface to use, if every host can run ranks; see `addresses`."""
    return addresses(hosts, ssh, interface, wait_s)[0]


def addresses(
    hosts: Sequence[Host], ssh: Ssh, interface: str | None, wait_s: float
) -> tuple[str | None, dict[str, str]]:
    """(the network interface to use, the IPv4 address of each host there), if every host can run
    ranks; prints warnings. None, and 127.0.0.1, if all of them are this host.

    `wait_s`: how long to wait until the hosts' names resolve and their ssh ports are open. Raises
    UserError with a line for every problem.
    """
    if wait_s:
        _wait(hosts, ssh, wait_s)
    here, answers = ask_all(hosts, ssh)
    results = judge(here, answers, interface)
    if interface:
        results.append(judge_own_interfaces(here["interfaces"], interface))
    problems = [result for result in results if result.status == PROBLEM]
    for result in results:
        if result.status not in (OK, PROBLEM):
            _say(result)
    if problems:
        problems = [_with_advice(result) for result in problems]
        told = "\n".join(line for result in problems for line in lines(result))
        raise UserError(f"no rank was started: {len(problems)} problem(s) with the hosts\n{told}")
    chosen = interface or _choose(here, answers)
    found = {answer.host.name: answer.facts["interfaces"] for answer in answers}
    return chosen, {
        name: of_host[chosen] if chosen else LOOPBACK_ADDRESS for name, of_host in found.items()
    }


def _with_advice(problem: Result) -> Result:
    """With what to do where the host is a worker's pod."""
    advice = "; ".join(filter(None, (problem.advice, pod.advice(problem.name))))
    return problem._replace(advice=advice)


def _choose(here: Mapping[str, Any], answers: Sequence[Answer]) -> str | None:
    """The first interface that all hosts and this one have; None if all ranks run here."""
    by_host = {answer.facts["hostname"]: answer.facts["interfaces"] for answer in answers}
    by_host[here["hostname"]] = here["interfaces"]
    if len(by_host) == 1:
        return None
    return next(iter(common_interfaces(by_host)), None)


def _wait(hosts: Sequence[Host], ssh: Ssh, wait_s: float) -> None:
    """Return when every host has a name and an open ssh port, or the time is up."""
    deadline = time.monotonic() + wait_s
    missing, told = list(hosts), ""
    while True:
        asked = [(host, Pending(find, host.name, ssh)) for host in missing[:HOSTS_AT_ONCE]]
        missing = [h for h, pending in asked if not _found(pending)] + missing[HOSTS_AT_ONCE:]
        if not missing or time.monotonic() >= deadline:
            return
        names = ", ".join(host.name for host in missing)
        if names != told:
            print(f"waiting for {names} ...", file=sys.stderr, flush=True)
            told = names
        time.sleep(LOOK_EVERY_S)


def _found(pending: Pending) -> bool:
    try:
        return pending.result(FIND_TIMEOUT_S) is None
    except TimeoutError:
        return False


def _say(result: Result) -> None:
    print("\n".join(lines(result)), file=sys.stderr, flush=True)
