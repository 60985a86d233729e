"""What the launcher's environment variables say, before Horovod or TensorFlow is imported."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import NamedTuple

from app.errors import UserError

# (launcher, rank, size), first match wins. Under MPI a rank sees no HOROVOD_RANK.
LAUNCHERS = (
    ("horovodrun", "HOROVOD_RANK", "HOROVOD_SIZE"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPI (PMI)", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
# Where ranks over gloo meet, in Horovod's words.
MEETING = ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT")
PARAMETER_SERVERS = "parameter servers"
TF_CONFIG = "TF_CONFIG"  # TensorFlow's own, where parameter servers are used
COORDINATOR, WORKER, SERVER = "chief", "worker", "ps"  # in its words; numbered in this order
ROLES = {COORDINATOR: "coordinator", WORKER: "worker", SERVER: "server"}


class Launched(NamedTuple):
    """How this process was started: `size` ranks by `launcher` (None: by no launcher)."""

    launcher: str | None
    rank: int
    size: int


@dataclasses.dataclass(frozen=True)
class Task:
    """This process's part in training with parameter servers. `cluster`: "HOST:PORT" of each task,
    by role."""

    cluster: dict[str, list[str]]
    role: str
    index: int

    @property
    def leads(self) -> bool:
        """Whether this is the coordinator, which is the run for all who watch it."""
        return self.role == COORDINATOR

    @property
    def number(self) -> int:
        """Among all tasks: the coordinator is 0."""
        before = list(ROLES)[: list(ROLES).index(self.role)]
        return sum(len(self.cluster[role]) for role in before) + self.index

    @property
    def size(self) -> int:
        """How many tasks there are."""
        return sum(map(len, self.cluster.values()))

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) where this task is reached."""
        return address_of(self.cluster[self.role][self.index])

    @property
    def name(self) -> str:
        """`worker 1`."""
        return called(self.role, self.index)


def called(role: str, index: int) -> str:
    """What people call a task: `coordinator`, `worker 1`, `server 0`."""
    return ROLES[role] + (f" {index}" if role != COORDINATOR else "")


def address_of(where: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT". Raises ValueError."""
    host, colon, port = where.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"'{where}' is not HOST:PORT")
    return host, int(port)


def read_task(environ: Mapping[str, str] = os.environ) -> Task | None:
    """What TF_CONFIG says; None if it names no parameter servers, or if horovodrun's variables are
    there, which are set for this process alone.

    Raises UserError if it names some, and is wrong.
    """
    _, rank, size = LAUNCHERS[0]
    if rank in environ and size in environ:
        return None
    try:
        found = json.loads(environ.get(TF_CONFIG, "{}"))
        if SERVER not in found.get("cluster", {}):
            return None
    except (ValueError, AttributeError, TypeError):
        return None  # not ours
    try:
        cluster = {role: list(found["cluster"].get(role, [])) for role in ROLES}
        task = Task(cluster, found["task"]["type"], int(found["task"]["index"]))
        if unknown := found["cluster"].keys() - ROLES.keys() or {task.role} - ROLES.keys():
            raise ValueError(f"'{min(unknown)}' is none of {', '.join(ROLES)}")
        if len(cluster[COORDINATOR]) != 1 or not all(cluster.values()):
            raise ValueError("expected one chief, and workers and servers (ps)")
        for where in (one for tasks in cluster.values() for one in tasks):
            address_of(where)
        if not 0 <= task.index < len(cluster[task.role]):
            raise ValueError(f"there is no {task.role} {task.index}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"TF_CONFIG is wrong: {reason}") from None
    return task


def read_launcher(environ: Mapping[str, str] = os.environ) -> Launched:
    """The launcher, this process's rank and the number of ranks that it started."""
    try:
        task = read_task(environ)
    except UserError:
        task = None  # whoever trains says so
    if task:
        return Launched(PARAMETER_SERVERS, task.number, task.size)
    for launcher, rank, size in LAUNCHERS:
        if rank in environ and size in environ:
            return Launched(launcher, int(environ[rank]), int(environ[size]))
    return Launched(None, 0, 1)
