"""The ranks that a launcher started, joined by Horovod. The only file that imports it."""

import contextlib
import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from app.distributed.launcher import Launched, read_launcher
from app.distributed.options import Knobs
from app.distributed.world import World
from app.elastic.door import DOOR
from app.elastic.sockets import SOCKETS
from app.errors import UserError
from app.pulse import PULSE

TUNED = ("HOROVOD_FUSION_THRESHOLD", "HOROVOD_CYCLE_TIME")
STALL_WARNING_S = 60  # Horovod's own HOROVOD_STALL_CHECK_TIME_SECONDS
# The process sets made here, by their ranks: Horovod makes none twice.
_PROCESS_SETS: dict[tuple[int, ...], Any] = {}


class HorovodWorld(World):
    """All ranks of a Horovod process set (default: every rank that the launcher started)."""

    def __init__(self, process_set: Any = None):
        import horovod.tensorflow as hvd

        self._hvd = hvd
        self._set = process_set or hvd.global_process_set
        self.backend = "mpi" if hvd.mpi_enabled() else "gloo"
        self.has_nccl = bool(hvd.nccl_built())
        self._look()

    def _look(self) -> None:
        self.rank = self._set.rank()
        self.size = self._set.size()
        self.local_rank = self._hvd.local_rank()
        self.local_size = self._hvd.local_size()

    @property
    def may_change(self) -> bool:
        # Horovod 0.28.1 crashes in a second init() if it was told both: its tuner then has no
        # value left to tune, and writes one (ParameterManager::BayesianParameter::SetValue).
        told = [name for name in TUNED if os.environ.get(name) is not None]
        return self.backend == "gloo" and len(told) < len(TUNED)

    def move_out(self) -> None:
        SOCKETS.forget()
        _PROCESS_SETS.clear()
        self._hvd.shutdown()

    def move_into(self, variables: Mapping[str, str]) -> None:
        os.environ.update(variables)
        with PULSE.waiting(), SOCKETS.noted(watches=True):
            self._hvd.init()
        self._look()

    def gather(self, value: Any) -> list[Any]:
        with PULSE.waiting():
            return self._hvd.allgather_object(value, name="world.gather", process_set=self._set)

    def broadcast(self, value: Any) -> Any:
        with PULSE.waiting():
            return self._hvd.broadcast_object(
                value, root_rank=self._global(0), name="world.broadcast", process_set=self._set
            )

    def _global(self, rank: int) -> int:
        """What Horovod calls this rank of the set."""
        return self._set.ranks[rank] if self._set.ranks else rank

    def sum(self, values: np.ndarray) -> np.ndarray:
        with PULSE.waiting():
            total = self._hvd.allreduce(
                tf.constant(values), op=self._hvd.Sum, name="world.sum", process_set=self._set
            )
            return total.numpy()

    def broadcast_variables(self, variables: Sequence[Any], root: int = 0) -> None:
        with PULSE.waiting():
            for index, variable in enumerate(variables):
                value = self._hvd.broadcast(
                    tf.convert_to_tensor(variable.value),
                    root_rank=self._global(root),
                    name=f"world.variable.{index}",
                    process_set=self._set,
                )
                variable.assign(value)
                PULSE.beat()

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return self._reduce(tensor, self._hvd.Sum, name)

    def allmax(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return self._reduce(tensor, self._hvd.Max, name)

    def _reduce(self, tensor: tf.Tensor, op: Any, name: str) -> tf.Tensor:
        tensor = tf.convert_to_tensor(tensor)
        rows = self._unknown(tensor if tensor.shape.rank else tensor[tf.newaxis])
        total = self._hvd.allreduce(rows, op=op, **self._called(name))
        return total if tensor.shape.rank else total[0]

    def allgather(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return self._hvd.allgather(self._unknown(tensor), **self._called(name))

    def alltoall(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return self._hvd.alltoall(self._unknown(tensor), **self._called(name))

    def _unknown(self, tensor: tf.Tensor) -> tf.Tensor:
        """The same bits, with a value that TensorFlow cannot know while it optimises a graph.

        Horovod does not declare that its collectives have side effects, so constant folding runs
        one whose inputs are all constants: once, when a graph is made, and only on the ranks that
        make one then. So the rows are sliced from the 0th on, which is a view of them all; but that
        it is the 0th follows from the number of ranks, which is not known until the graph runs.
        """
        tensor = tf.convert_to_tensor(tensor)
        if tf.executing_eagerly():
            return tensor
        first = tf.minimum(self._hvd.size_op(process_set_id=self._set.process_set_id), 0)
        return tf.ensure_shape(tensor[first:], tensor.shape)

    def _called(self, name: str) -> dict[str, Any]:
        return {"name": name, "process_set": self._set, "ignore_name_scope": True}

    @contextlib.contextmanager
    def timeline(self, path: Path) -> Iterator[None]:
        self._hvd.start_timeline(str(path))
        try:
            yield
        finally:
            self._hvd.stop_timeline()

    def by_host(self, hosts: Sequence[str] | None = None) -> tuple[World, World]:
        if self._set is not self._hvd.global_process_set:
            raise ValueError("the ranks of a process set cannot be told apart by their hosts")
        ranks_of: dict[str, list[int]] = {}
        for rank, host in enumerate(hosts or self.gather(socket.gethostname())):
            ranks_of.setdefault(host, []).append(rank)
        if len({len(ranks) for ranks in ranks_of.values()}) > 1:
            counts = ", ".join(f"{len(ranks)} on {host}" for host, ranks in ranks_of.items())
            raise UserError(
                f"the exchange by hosts deals each tensor to the ranks of a host, so it needs the "
                f"same number on every host, but there are {counts}: start as many on each, or use "
                "another sync",
                shared=True,
            )
        local = list(ranks_of.values())
        return self._mine(local), self._mine([list(ranks) for ranks in zip(*local, strict=True)])

    def _mine(self, groups: Sequence[Sequence[int]]) -> World:
        """The group that this rank is in; all ranks give the same groups, of one size."""
        if len(groups) == 1:
            return self
        if len(groups[0]) == 1:
            return World()
        sets = [self.process_set(ranks) for ranks in groups]
        return HorovodWorld(next(one for one in sets if self.rank in one.ranks))

    def process_set(self, ranks: Sequence[int]) -> Any:
        """The `hvd.ProcessSet` of these ranks; a collective of all ranks, in or not, that
        `connect(by_host=True)` has joined."""
        key = tuple(sorted(ranks))
        if os.environ.get("HOROVOD_DYNAMIC_PROCESS_SETS") != "1":
            raise UserError(
                "Horovod makes process sets only if told before it starts: give --sync "
                "hierarchical again where a run is resumed, or set HOROVOD_DYNAMIC_PROCESS_SETS=1 "
                "on all ranks",
                shared=True,
            )
        if key not in _PROCESS_SETS:
            _PROCESS_SETS[key] = self._hvd.add_process_set(key)
        return _PROCESS_SETS[key]

    def size_tensor(self) -> tf.Tensor:
        size = self._hvd.size_op(process_set_id=self._set.process_set_id)
        return tf.cast(size, tf.float32)


def connect(
    launched: Launched | None = None,
    timeline: bool = False,
    stall_timeout_s: float = 600.0,
    knobs: Knobs | None = None,
    by_host: bool = False,
) -> World:
    """Join the ranks that the launcher started; without a launcher, a world of one.

    `timeline`: `World.timeline` will be used. `by_host`: `World.by_host` or `process_set` will be.
    `knobs`: Horovod's own. `stall_timeout_s`: over MPI, how long an exchange waits for a missing
    rank before it fails; infinity for ever. Over gloo Horovod does not notice. The environment
    variables of Horovod that say these, which are read here, come first.

    Raises UserError when a launcher started several ranks that Horovod cannot join: they would
    otherwise train as separate runs.
    """
    launched = launched or read_launcher()
    if launched.size == 1 and not DOOR.grows:
        return World()
    try:
        import horovod.tensorflow as hvd
    except ImportError as reason:
        raise UserError(
            f"{launched.launcher} started {launched.size} ranks, but Horovod cannot be imported "
            f"({reason}), so each would train alone. Run 'make setup', or start one process.",
            shared=True,
        ) from None
    if launched.launcher == "horovodrun":  # over gloo; Open MPI finds its hosts by itself
        _check_hostname()
    if timeline:  # it is started and stopped later; its path is not known yet
        os.environ["HOROVOD_TIMELINE"] = "DYNAMIC"
    _turn(knobs or Knobs())
    if by_host:
        os.environ["HOROVOD_DYNAMIC_PROCESS_SETS"] = "1"
    _limit_stalls(stall_timeout_s)
    if not hvd.is_initialized():
        _PROCESS_SETS.clear()
    with SOCKETS.noted(watches=DOOR.grows):
        hvd.init()
    if hvd.size() != launched.size:
        raise UserError(
            f"{launched.launcher} started {launched.size} ranks, but Horovod joined "
            f"{hvd.size()}: it was built without MPI. Install Open MPI and its headers (Debian: "
            "libopenmpi-dev openmpi-bin) and run 'make setup', or use horovodrun --gloo.",
            shared=True,
        )
    return HorovodWorld()


def _turn(knobs: Knobs) -> None:
    """Tell Horovod, unless the user has."""
    for name, value in knobs.variables().items():
        os.environ.setdefault(name, value)


def _limit_stalls(timeout_s: float) -> None:
    """Tell Horovod, which counts in whole seconds and takes 0 for no limit."""
    if not math.isfinite(timeout_s):
        return
    shutdown = os.environ.setdefault(
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", str(max(2, math.ceil(timeout_s)))
    )
    if shutdown.isdigit() and 0 < int(shutdown) <= STALL_WARNING_S:
        # It fails nothing that it has not warned of before.
        os.environ.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", str(max(1, int(shutdown) // 2)))


def _check_hostname() -> None:
    """gloo looks up its own host, and crashes without a message if it cannot."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError as reason:
        raise UserError(
            f"this host's own name '{name}' cannot be resolved ({reason}), and Horovod needs it: "
            f"add a line with its address and '{name}' to /etc/hosts",
            shared=os.environ.get("HOROVOD_CROSS_RANK", "0") == "0",  # rank 0 is on this host too
        ) from None


def current_world(process_set: Any = None) -> World:
    """The world of a script that called `hvd.init()` (or `connect()`) itself.

    Raises UserError if a launcher started several ranks and neither was called.
    """
    launched = read_launcher()
    if launched.size == 1 and process_set is None:
        return World()
    import horovod.tensorflow as hvd

    if not hvd.is_initialized():
        raise UserError(
            f"{launched.launcher} started {launched.size} ranks, but Horovod is not initialised: "
            "call app.distributed.connect() or hvd.init() first.",
            shared=True,
        )
    return HorovodWorld(process_set)
