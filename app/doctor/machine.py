"""The doctor on this machine: cores, threads, memory, shared memory, disk, name, interfaces."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from app.doctor.facts import disk_free_bytes
from app.doctor.probe import OK, PROBLEM, WARNING, Result, gib

# A rank on a CPU host takes about 0.7 GiB before any data.
LEAST_MEMORY_BYTES = 2 * 2**30
CONTAINER_SHM_BYTES = 64 * 2**20
LEAST_THREADS = 512  # one rank starts dozens; more with more cores
LEAST_DISK_BYTES, FAIR_DISK_BYTES = 200 * 2**20, 2 * 2**30
# Limit and use of a memory cgroup, v2 and v1.
MEMORY_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
UNLIMITED = 2**60  # what cgroup v1 writes for no limit is more than this


class Limits(NamedTuple):
    """What the control groups of this process allow; None: no limit."""

    cpus: float | None
    memory_bytes: int | None
    threads: int | None


def read_limits(root: Path = Path("/")) -> Limits:
    """The tightest limits of this process's cgroups and those above them, v2 or v1."""
    cpus = []
    for folder in _folders(root, "cpu"):
        quota, period = [*_words(folder / "cpu.max"), "", ""][:2]  # v2: "150000 100000"
        if not quota:
            quota = "".join(_words(folder / "cpu.cfs_quota_us"))
            period = "".join(_words(folder / "cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit():
            cpus.append(int(quota) / int(period))
    memory = _least(root, "memory", *(limit for limit, _ in MEMORY_FILES))
    return Limits(min(cpus, default=None), memory, _least(root, "pids", "pids.max", "pids.max"))


def _folders(root: Path, controller: str) -> list[Path]:
    """Every cgroup folder that limits this process, for one controller."""
    folders = []
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if names and controller not in names.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if names else "")
        own = top / path.strip("/")
        folders += [own, *(parent for parent in own.parents if parent.is_relative_to(top))]
    return folders


def _least(root: Path, controller: str, *files: str) -> int | None:
    """The smallest number in one of these files in any folder of the controller."""
    values = [_words(folder / file) for folder in _folders(root, controller) for file in files]
    limits = [int(words[0]) for words in values if words and words[0].isdigit()]
    return min((limit for limit in limits if limit < UNLIMITED), default=None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """The kernel's estimate of what new programs can use; None if it gives none."""
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def free_memory_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process may still take: of the machine, and of every cgroup above it."""
    free = [available_memory_bytes(root)]
    for folder in _folders(root, "memory"):
        for limit_file, used_file in MEMORY_FILES:
            limit, used = (_words(folder / file)[:1] for file in (limit_file, used_file))
            if limit and used and limit[0].isdigit() and int(limit[0]) < UNLIMITED:
                free.append(max(0, int(limit[0]) - int(used[0])))
    return min((size for size in free if size is not None), default=None)


def judge_cores(cores: int, limit: float | None) -> Result:
    """TensorFlow starts a thread for each core that it sees, even if a quota slows them down."""
    if limit is None or limit >= cores:
        return Result(OK, "cores", f"{cores}")
    found = f"{cores} visible, but the container may use only {limit:g}: threads will be paused"
    advice = f"give {max(1, round(limit))} whole cores (docker --cpuset-cpus, a static CPU manager)"
    return Result(WARNING, "cores", found, f"{advice}, or raise the limit")


def judge_threads(limits: Sequence[int | None]) -> Result:
    """How many processes and threads may be started. `limits`: None is no limit."""
    least = min((limit for limit in limits if limit is not None), default=None)
    if least is None or least >= LEAST_THREADS:
        return Result(OK, "threads", f"at most {least}" if least else "no limit")
    advice = "raise the limit (ulimit -u; docker --pids-limit): each rank starts dozens of threads"
    return Result(WARNING, "threads", f"at most {least} processes and threads", advice)


def judge_memory(free_bytes: int | None, limit_bytes: int | None) -> Result:
    """Memory for ranks; each takes about 0.7 GiB before any data."""
    if free_bytes is None:
        return Result(WARNING, "memory", "unknown: /proc/meminfo cannot be read", "check by hand")
    found = f"{gib(free_bytes)} for ranks"
    if limit_bytes is not None:
        found += f" (the container's limit is {gib(limit_bytes)})"
    if free_bytes >= LEAST_MEMORY_BYTES:
        return Result(OK, "memory", found)
    advice = "end other programs, raise the container's limit, or start fewer ranks"
    return Result(WARNING, "memory", found, f"a rank takes about 0.7 GiB: {advice}")


def judge_shared_memory(size_bytes: int | None, free_bytes: int, gpus: int) -> Result:
    """NCCL exchanges through /dev/shm; a container's default of 64 MiB is too little."""
    name = "shared memory"
    advice = "docker run --shm-size 1g; Kubernetes: mount emptyDir {medium: Memory} on /dev/shm"
    if size_bytes is None:
        return Result(WARNING, name, "/dev/shm is missing: NCCL and Open MPI use it", advice)
    found = f"/dev/shm has {size_bytes / 2**20:,.0f} MiB, {free_bytes / 2**20:,.0f} MiB free"
    if gpus and free_bytes <= CONTAINER_SHM_BYTES:
        return Result(WARNING, name, f"{found}: too little for NCCL", advice)
    return Result(OK, name, found)


def judge_disk(name: str, directory: str, free_bytes: int | None, writable: bool) -> Result:
    """Room for checkpoints and event files."""
    if free_bytes is None:
        return Result(PROBLEM, name, f"{directory} cannot be read", "check its mount and owner")
    found = f"{gib(free_bytes)} free in {directory}"
    if not writable:
        found = f"user {os.getuid()} cannot write to {directory}"
        return Result(WARNING, name, found, "change its owner, or choose another with --run-dir")
    if free_bytes >= FAIR_DISK_BYTES:
        return Result(OK, name, found)
    advice = "make room, or choose another directory with --run-dir"
    return Result(PROBLEM if free_bytes < LEAST_DISK_BYTES else WARNING, name, found, advice)


def judge_name(hostname: str, addresses: Sequence[str] | None, several_hosts: bool) -> Result:
    """gloo looks up its own host, and crashes without a message if it cannot."""
    if not addresses:
        found = f"'{hostname}' cannot be resolved: gloo crashes"
        advice = f"add a line with this host's address and '{hostname}' to /etc/hosts"
        return Result(PROBLEM, "host name", found, advice)
    found = f"'{hostname}' is {', '.join(addresses)}"
    if several_hosts and all(is_loopback(address) for address in addresses):
        advice = f"in /etc/hosts, give '{hostname}' the address that other hosts see"
        return Result(WARNING, "host name", f"{found}: other hosts cannot use that", advice)
    return Result(OK, "host name", found)


def is_loopback(address: str) -> bool:
    """Whether an address only works on its own host."""
    return address.startswith("127.") or address == "::1"


def judge_own_interfaces(interfaces: Mapping[str, str], wanted: str | None) -> Result:
    """The wanted interface must exist here and have an address."""
    found = ", ".join(f"{name} {address}" for name, address in interfaces.items()) or "none"
    if wanted and wanted not in interfaces:
        advice = "give --network-interface one of these"
        return Result(PROBLEM, "interfaces", f"no '{wanted}' with an address: {found}", advice)
    if not interfaces:
        return Result(PROBLEM, "interfaces", "none has an IPv4 address", "bring one up: ip link")
    return Result(OK, "interfaces", found)


def judge_listening(why_not: str | None) -> Result:
    """Whether parameter servers can be kept to one interface; `why_not`: the reason if not."""
    name = "servers' ports"
    if why_not is None:
        found = "launch/parameter_servers.sh can keep TensorFlow's servers, which ask for no "
        return Result(OK, name, found + "password, to loopback or one interface")
    return Result(
        WARNING,
        name,
        f"a socket cannot be limited to one address here ({why_not})",
        "launch/parameter_servers.sh will not start: use launch/local.sh or launch/hosts.sh",
    )


def check_limits(cores: int, gpus: int) -> list[Result]:
    """Cores, threads, memory and shared memory."""
    import resource

    limits = read_limits()
    own = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    try:
        shm = os.statvfs("/dev/shm")
        size, free = shm.f_blocks * shm.f_frsize, shm.f_bavail * shm.f_frsize
    except OSError:
        size, free = None, 0
    root = os.getuid() == 0  # ulimit -u does not limit root
    nproc = None if root or own == resource.RLIM_INFINITY else own
    return [
        judge_cores(cores, limits.cpus),
        judge_threads([limits.threads, nproc]),
        judge_memory(free_memory_bytes(), limits.memory_bytes),
        judge_shared_memory(size, free, gpus),
    ]


def check_disk(directory: str) -> list[Result]:
    """The working directory, where runs are written, and the one for temporary files."""
    runs = os.path.join(directory, "runs")
    places = {"disk": runs if os.path.isdir(runs) else directory}
    try:
        places["temporary files"] = tempfile.gettempdir()
    except OSError as error:
        advice = "make room in /tmp, or set TMPDIR to a writable directory"
        return [*_disks(places), Result(PROBLEM, "temporary files", str(error), advice)]
    return _disks(places)


def _disks(places: Mapping[str, str]) -> list[Result]:
    return [
        judge_disk(name, place, disk_free_bytes(place), os.access(place, os.W_OK))
        for name, place in places.items()
    ]
