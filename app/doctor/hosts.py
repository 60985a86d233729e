"""The doctor on other hosts: can each be reached, and are they alike? Runs before every launch.

Host names come from a command line or a file: they are checked here, and never reach a shell of
this host.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from app.doctor import facts as local_facts
from app.doctor.alike import judge_alike, judge_host
from app.doctor.probe import PROBLEM, Finished, Pending, Result, last_line, run
from app.doctor.software import marked
from app.doctor.versions import package_names, read_pins
from app.errors import UserError

CONNECT_TIMEOUT_S = 5
SSH_TIMEOUT_S = 30.0
HOST_TIMEOUT_S = 75.0  # the sum of all waits for one host, and time to end ssh
HOSTS_AT_ONCE = 64
# Letters, digits, and '.', '_' and '-' inside: neither an ssh option nor special to a shell.
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)


class Host(NamedTuple):
    """A host to start ranks on."""

    name: str
    slots: int


class Ssh(NamedTuple):
    """How hosts are reached; None: as ssh is configured."""

    port: int | None = None
    identity: Path | None = None

    def command(self, name: str, *options: str) -> list[str]:
        """The ssh command line up to the host; it never prompts and never waits long."""
        command = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"]
        command += ["-o", "ConnectionAttempts=1", "-o", "ServerAliveInterval=5"]
        # A connection left open in the background would keep our pipe open.
        command += ["-o", "ControlMaster=no", "-o", "LogLevel=ERROR"]
        command += ["-p", str(self.port)] if self.port else []
        command += ["-i", str(self.identity)] if self.identity else []
        return [*command, *options, "--", name]


BY_CONFIGURATION = Ssh()


class Answer(NamedTuple):
    """What one host answered: its facts, or why it could not be asked."""

    host: Host
    problem: Result | None
    facts: Mapping[str, Any]
    skew_s: float = 0.0


def make_ssh(port: int | None, identity: Path | None) -> Ssh:
    """How to reach hosts. Raises UserError if there is no such identity file."""
    if identity is not None and not identity.is_file():
        raise UserError(f"--ssh-identity {identity}: no such file; expected a private key")
    return Ssh(port, identity)


def parse_hosts(text: str) -> list[Host]:
    """`host1:4,host2:4` as horovodrun takes it; without a number, one slot.

    Raises UserError for an invalid name or number of slots, and for a host given twice.
    """
    entries = [entry.strip().partition(":") for entry in text.split(",")]
    return _hosts([(name, slots if colon else "1") for name, colon, slots in entries], "--hosts")


def parse_hostfile(path: Path) -> list[Host]:
    """The lines `host slots=4` (or `host:4`) of a hostfile of horovodrun or Open MPI.

    Raises UserError if the file cannot be read, and as `parse_hosts` does.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"--hostfile {path} cannot be read: {error}") from None
    rows = []
    for line in lines:
        words = line.partition("#")[0].split()
        if words:
            name, colon, number = words[0].partition(":")
            slots = [word[6:] for word in words[1:] if word.startswith("slots=")]
            rows.append((name, number if colon else (slots or ["1"])[0]))
    return _hosts(rows, f"--hostfile {path}")


def _hosts(rows: Sequence[tuple[str, str]], source: str) -> list[Host]:
    hosts: dict[str, Host] = {}
    for name, slots in rows:
        if not HOST_NAME.fullmatch(name):
            raise UserError(
                f"{source}: {name!r} is not a host name: expected letters, digits, '.', '-' and "
                "'_', such as gpu1:4,gpu2:4 (no user, no IPv6 address; set those in ~/.ssh/config)"
            )
        if not re.fullmatch(r"[1-9][0-9]{0,5}", slots, re.ASCII):
            raise UserError(f"{source}: {slots!r} slots for {name}: expected a number: {name}:4")
        if name in hosts:
            raise UserError(f"{source}: {name} is given twice: give it once with all its slots")
        hosts[name] = Host(name, int(slots))
    if not hosts:
        raise UserError(f"{source} names no host: expected lines such as 'gpu1 slots=4'")
    return list(hosts.values())


def check_hosts(
    hosts: Sequence[Host], ssh: Ssh = BY_CONFIGURATION, network_interface: str | None = None
) -> list[Result]:
    """Ask all hosts at once; what is wrong with each of them, and between them.

    Takes at most `hosts_timeout_s(len(hosts))` seconds. A result of status "problem" forbids a
    launch.
    """
    here, answers = ask_all(hosts, ssh)
    return judge(here, answers, network_interface)


def ask_all(hosts: Sequence[Host], ssh: Ssh) -> tuple[Mapping[str, Any], list[Answer]]:
    """The facts of this host, and the answers of all hosts."""
    directory = os.getcwd()
    here = local_facts.gather(package_names(read_pins()), directory)
    answers = []
    for start in range(0, len(hosts), HOSTS_AT_ONCE):
        chunk = hosts[start : start + HOSTS_AT_ONCE]
        asked = [Pending(ask, host, ssh, here, directory) for host in chunk]
        deadline = time.monotonic() + HOST_TIMEOUT_S
        answers += [_answer(h, p, deadline) for h, p in zip(chunk, asked, strict=True)]
    return here, answers


def judge(
    here: Mapping[str, Any], answers: Sequence[Answer], network_interface: str | None
) -> list[Result]:
    """What is wrong with each host that was asked, and between those that answered."""
    results = []
    for answer in answers:
        if answer.problem:
            results.append(answer.problem)
        else:
            results += judge_host(*answer.host, answer.facts, here, answer.skew_s)
    facts = {answer.host.name: answer.facts for answer in answers if not answer.problem}
    return results + judge_alike(facts, network_interface)


def hosts_timeout_s(hosts: int) -> float:
    """How long `check_hosts` may take for this many hosts; usually a second or two."""
    return HOST_TIMEOUT_S * -(-hosts // HOSTS_AT_ONCE) + HOST_TIMEOUT_S


def _answer(host: Host, asked: Pending, deadline: float) -> Answer:
    try:
        return asked.result(deadline - time.monotonic())
    except TimeoutError:
        found = f"no answer within {HOST_TIMEOUT_S:.0f} s"
    except Exception as error:
        found = f"could not be asked: {type(error).__name__}: {error}"
    advice = f"try: ssh {host.name} true"
    return Answer(host, Result(PROBLEM, host.name, found, advice), {})


def ask(host: Host, ssh: Ssh, here: Mapping[str, Any], directory: str) -> Answer:
    """Find a host, reach its ssh port, and gather the facts with its Python, as far as it goes."""
    if is_here(host.name, here):
        return Answer(host, None, here)
    problem = find(host.name, ssh)
    if problem:
        return Answer(host, problem, {})
    command = [*ssh.command(host.name), f"{shlex.quote(sys.executable)} -"]
    started_s = time.time()
    finished = run(command, SSH_TIMEOUT_S, _program(list(here["packages"]), directory))
    ended_s = time.time()
    facts = marked(finished.out, local_facts.MARK)
    if facts is None:
        return Answer(host, judge_ssh(host.name, finished), {})
    return Answer(host, None, facts, skew_s(started_s, ended_s, facts["time_s"]))


def find(name: str, ssh: Ssh) -> Result | None:
    """None if the name leads to an ssh port that accepts connections; otherwise what is wrong."""
    configuration = run(ssh.command(name, "-G"), CONNECT_TIMEOUT_S)
    if configuration.failure:
        return judge_ssh(name, configuration)
    way = _way(configuration.out)
    if way.keys() & {"proxyjump", "proxycommand"}:  # only ssh can get there
        return None
    return reach(name, way.get("hostname", name), int(way.get("port", "22")))


def is_here(name: str, here: Mapping[str, Any]) -> bool:
    """Whether a name means this host: then its ranks start without ssh."""
    if name in ("localhost", here["hostname"]):
        return True
    addresses = set(local_facts.lookup(name) or [])
    return bool(addresses & set(here["interfaces"].values()))


def _way(configuration: str) -> dict[str, str]:
    """What `ssh -G HOST` prints: the host name, the port and the proxy that ssh would use."""
    rows = [line.partition(" ") for line in configuration.splitlines()]
    return {key: value for key, _, value in rows if value != "none"}


def reach(name: str, address: str, port: int) -> Result | None:
    """None if a TCP connection to the ssh port can be made; otherwise what prevents it."""
    addresses = local_facts.lookup(address)
    if not addresses:
        advice = "check its spelling, add it to /etc/hosts or the name service, or wait for its pod"
        return Result(PROBLEM, name, f"the name '{address}' cannot be resolved", advice)
    where = f"port {port} of {addresses[0]}"
    try:
        # Connecting to an address looks no name up again.
        with socket.create_connection((addresses[0], port), timeout=CONNECT_TIMEOUT_S):
            return None
    except ConnectionRefusedError:
        found = f"{where} refuses connections: no sshd listens there"
        advice = "start sshd there, or give its port with --ssh-port"
    except TimeoutError:
        found = f"{where} does not answer within {CONNECT_TIMEOUT_S} s"
        advice = "is the host up? does a firewall or a network policy drop the connection?"
    except OSError as error:
        found, advice = f"{where} cannot be reached: {error}", "check the network and its routes"
    return Result(PROBLEM, name, found, advice)


def _program(packages: list[str], directory: str) -> str:
    """What is sent to the Python of another host: the source of facts.py, and a call."""
    source = Path(local_facts.__file__).read_text(encoding="utf-8")
    return f"{source}\n\nanswer({packages!r}, {directory!r})\n"


# What ssh says, what that means, and what to do; the first match counts.
SSH_SAYS = (
    (
        "too open",
        "the private key may be read by others, so ssh refuses it",
        "chmod 600 the file given with --ssh-identity",
    ),
    (
        "permission denied",
        "ssh does not accept this user's key",
        "copy the public key there (ssh-copy-id), or name the private one with --ssh-identity",
    ),
    (
        "host key verification failed",
        "ssh does not know the key of that host",
        "log in once by hand, or add its key to ~/.ssh/known_hosts: mpirun cannot prompt for it",
    ),
)


def judge_ssh(name: str, finished: Finished) -> Result:
    """Why a host whose ssh port answers gave no facts."""
    said = last_line(finished.err)
    for sign, meaning, advice in SSH_SAYS:
        if sign in finished.err.lower():
            return Result(PROBLEM, name, f"{meaning}: {said}", advice)
    if finished.code in (126, 127):
        found = f"no Python at {sys.executable} there: {said}"
        advice = "install Lockstep at the same path on every host: ranks start from it"
        return Result(PROBLEM, name, found, advice)
    if finished.failure and finished.code is None:
        found = f"ssh: {finished.failure}"
        advice = "install it (Debian: apt-get install openssh-client), or check that host's load"
        return Result(PROBLEM, name, found, advice)
    if finished.code == 255:
        return Result(PROBLEM, name, f"ssh failed: {said}", f"try by hand: ssh {name} true")
    found = f"its Python failed ({finished.failure or 'no answer'}): {said}"
    return Result(PROBLEM, name, found, f"try by hand: ssh {name} {sys.executable} --version")


def skew_s(started_s: float, ended_s: float, told_s: float) -> float:
    """How far a clock that was read between two moments is ahead (negative: behind)."""
    return 0.0 if started_s <= told_s <= ended_s else told_s - ended_s
