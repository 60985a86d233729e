"""The doctor compares hosts: each with this one, and all with one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.doctor.machine import is_loopback
from app.doctor.probe import OK, PROBLEM, WARNING, Result, gib
from app.doctor.versions import numbers

# A different version of one of these changes results or breaks the exchange.
MUST_BE_SAME = ("tensorflow", "keras", "horovod", "numpy")
MOST_SKEW_S = 1.0
LEAST_DISK_BYTES = 2**30
SAME_SET_UP = "set both up from the same requirements.txt (make setup), or use one image"

Facts = Mapping[str, Any]


def judge_host(name: str, slots: int, there: Facts, here: Facts, skew_s: float) -> list[Result]:
    """One ok line for a host like this one, or a line for each difference that matters."""
    results = [
        *_versions(name, there, here),
        *_room(name, slots, there),
        *_name(name, there),
    ]
    if abs(skew_s) > MOST_SKEW_S:
        found = f"its clock is about {abs(skew_s):.1f} s {'ahead' if skew_s > 0 else 'behind'}"
        advice = "synchronise clocks (chrony, NTP): times in logs and TensorBoard are mixed up"
        results.append(Result(WARNING, name, found, advice))
    if results:
        return results
    free = there["disk_free_bytes"]
    disk = f"{gib(free)} free" if free is not None else "disk unknown"
    found = f"answers; {slots} slot(s), Python {there['python']} and packages as here, {disk}"
    return [Result(OK, name, found)]


def _versions(name: str, there: Facts, here: Facts) -> list[Result]:
    """Python and packages that differ from this host's."""
    results = []
    if there["python"] != here["python"]:
        same = numbers(there["python"])[:2] == numbers(here["python"])[:2]
        found = f"Python {there['python']}, here {here['python']}"
        results.append(Result(WARNING if same else PROBLEM, name, found, SAME_SET_UP))
    for status, chosen in ((PROBLEM, True), (WARNING, False)):
        differences = [
            f"{package} {there['packages'].get(package) or 'missing'} (here {own or 'missing'})"
            for package, own in here["packages"].items()
            if there["packages"].get(package) != own and (package in MUST_BE_SAME) == chosen
        ]
        if differences:
            found = f"packages differ from here: {', '.join(differences)}"
            results.append(Result(status, name, found, SAME_SET_UP))
    if there["horovod_built_for"] != here["horovod_built_for"]:
        built = f"{there['horovod_built_for']}, here for {here['horovod_built_for']}"
        found = f"its Horovod was compiled for TensorFlow {built}"
        results.append(Result(PROBLEM, name, found, SAME_SET_UP))
    return results


def _room(name: str, slots: int, there: Facts) -> list[Result]:
    """Enough GPUs or cores for the slots, and the working directory with space on its disk."""
    results = []
    gpus, cores, free = there["gpus"], there["cores"], there["disk_free_bytes"]
    if gpus and slots > gpus:
        found = f"{slots} slots, but {gpus} GPU(s)"
        results.append(Result(PROBLEM, name, found, f"give {name}:{gpus}: each rank needs a GPU"))
    elif not gpus and slots > cores:
        found = f"{slots} slots, but {cores} core(s): ranks will wait for each other"
        results.append(Result(WARNING, name, found, f"give {name}:{cores}"))
    if not there["directory"]:
        found = "this working directory does not exist there"
        advice = "share it, or start in one that all hosts have: ranks start in it"
        results.append(Result(PROBLEM, name, found, advice))
    if free is not None and free < LEAST_DISK_BYTES:
        found = f"{gib(free)} free on the disk of the working directory"
        results.append(Result(WARNING, name, found, "make room there"))
    return results


def _name(name: str, there: Facts) -> list[Result]:
    """gloo crashes on a host that cannot resolve its own name."""
    if there["addresses"]:
        return []
    hostname = there["hostname"]
    found = f"it cannot resolve its own name '{hostname}': gloo crashes"
    advice = f"add a line with its address and '{hostname}' to /etc/hosts there"
    return [Result(PROBLEM, name, found, advice)]


def judge_alike(facts: Mapping[str, Facts], wanted: str | None) -> list[Result]:
    """Whether the hosts that answered fit together. `wanted`: the network interface to use."""
    if not facts:
        return []
    interfaces = {name: there["interfaces"] for name, there in facts.items()}
    names = {name: there["hostname"] for name, there in facts.items()}
    local = [name for name, there in facts.items() if _only_local(there["addresses"])]
    for hostname in sorted(set(names.values())):
        same = [name for name, own in names.items() if own == hostname]
        if len(same) > 1:  # perhaps one machine: its interfaces would be compared with themselves
            found = f"{', '.join(same)} all call themselves '{hostname}'"
            advice = "name each host once, and give every machine its own host name"
            return [Result(PROBLEM, "host names", found, advice)]
    results = [judge_interfaces(interfaces, wanted)]
    if len(facts) == 1:
        return results
    if "localhost" in facts:
        advice = "give the name by which the other hosts know this one"
        results.append(Result(WARNING, "host names", "'localhost' beside other hosts", advice))
    if local:
        found = f"on {', '.join(local)} its own name is only a loopback address"
        advice = "in /etc/hosts there, give it the address that other hosts see (gloo announces it)"
        results.append(Result(WARNING, "host names", found, advice))
    return results


def _only_local(addresses: list[str] | None) -> bool:
    return bool(addresses) and all(is_loopback(address) for address in addresses or [])


def judge_interfaces(by_host: Mapping[str, Mapping[str, str]], wanted: str | None) -> Result:
    """Horovod needs an interface of the same name on every host.

    `by_host`: of each host, interface name -> IPv4 address. An interface with the same address on
    two hosts (docker0) leads nowhere.
    """
    title = "common interface"
    listed = "; ".join(f"{host}: {', '.join(own) or 'none'}" for host, own in by_host.items())
    common = common_interfaces(by_host)
    if wanted and wanted not in common:
        found = f"'{wanted}' is not on every host with an address of its own ({listed})"
        advice = f"give --network-interface {common[0]}" if common else "rename one: ip link"
        return Result(PROBLEM, title, found, advice)
    if not common:
        found = f"no interface has the same name on all hosts ({listed})"
        advice = "Horovod needs one: rename it (ip link set NAME name eth0), or use containers"
        return Result(PROBLEM, title, found, advice)
    chosen = wanted or common[0]
    others = "" if len(common) == 1 or wanted else f" (also {', '.join(common[1:])})"
    found = f"{chosen} on {len(by_host)} host(s) that answered{others}"
    return Result(OK, title, found, f"start with --network-interface {chosen}")


def common_interfaces(by_host: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The interfaces that exist on every host, with a different address on each."""
    return [name for name in next(iter(by_host.values())) if _connects(name, by_host)]


def _connects(name: str, by_host: Mapping[str, Mapping[str, str]]) -> bool:
    addresses = [own.get(name, "127.") for own in by_host.values()]
    return len(set(addresses)) == len(addresses) and not any(map(is_loopback, addresses))
