"""The workers: who they are, and the collectives that the application needs.

`connect()` (horovod_world.py) returns a `World`: of one process, or of all the ranks that a
launcher started. Both have the same interface, so no caller asks which one it has. A collective
must be called by every rank of the world.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from app.errors import UserError


class World:
    """A world of one process, and the interface of every world."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    backend = "none"
    has_nccl: bool | None = None  # None: no exchange at all

    @property
    def is_chief(self) -> bool:
        """True on the rank that writes files and speaks to the user."""
        return self.rank == 0

    @property
    def described(self) -> str:
        """For people."""
        return f"{self.size} rank(s)"

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value` (any picklable object), in the order of ranks, on every rank."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The chief's `value` (any picklable object), on every rank."""
        return value

    def barrier(self) -> None:
        """Wait until every rank has reached this point."""
        self.gather(None)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Elementwise sum over ranks; int64 and float64 stay exact and keep their dtype."""
        return values

    def broadcast_variables(self, variables: Sequence[Any], root: int = 0) -> None:
        """Overwrite Keras variables with those of rank `root`, in place."""

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        """Sum over ranks, inside or outside a graph; shape and dtype must agree."""
        return tensor

    def allmax(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        """Elementwise maximum over ranks, as `allreduce`."""
        return tensor

    def allgather(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        """Every rank's rows, concatenated in the order of ranks; row counts may differ."""
        return tensor

    def alltoall(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        """Row r of the result is rank r's row for this rank; (ranks, ...) everywhere."""
        return tensor

    def size_tensor(self) -> tf.Tensor:
        """The number of ranks as float32 (), read when the graph runs, not when it is traced."""
        return tf.constant(1.0)

    def by_host(self, hosts: Sequence[str] | None = None) -> tuple["World", "World"]:
        """(the ranks of this rank's host, the ranks of the same number on every host); a
        collective, outside graphs, for ranks that `connect(by_host=True)` has joined.

        `hosts`: the host of each rank; by default what each calls its own. Raises UserError if
        hosts have unequal numbers of ranks, ValueError for the ranks of a process set.
        """
        return self, self

    def place(self, make: Callable[[], Any]) -> Any:
        """`make()`, whose variables will be where training has them."""
        return make()

    def near(self, classifier: Any) -> Any:
        """A classifier with the present weights of this one, and with variables of this process."""
        return classifier

    @property
    def may_change(self) -> bool:
        """Whether `move_out` and `move_into` work."""
        return False

    def move_out(self) -> None:
        """End this rank's part, whatever became of others; `move_into` comes next, or the end."""

    def move_into(self, variables: Mapping[str, str]) -> None:
        """Become a world of other ranks, in place: rank and size change; a collective of these.

        `variables`: what Horovod is told in the environment.
        """

    @contextlib.contextmanager
    def timeline(self, path: Path) -> Iterator[None]:
        """Have rank 0 record every collective of a block in `path`, for Perfetto; on all ranks."""
        log = logging.getLogger(__name__)
        log.warning("one process exchanges nothing, so there is no timeline")
        yield

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Run a block that may raise UserError so that all ranks fail or none does.

        The same error is raised on every rank; it names the rank if not all of them failed.
        """
        error = None
        try:
            yield
        except UserError as raised:
            error = str(raised)
        errors = self.gather(error)
        failed = [rank for rank, message in enumerate(errors) if message is not None]
        if failed:
            where = "" if len(failed) == self.size else f"rank {failed[0]}: "
            raise UserError(where + errors[failed[0]], shared=True)

    def from_chief(self, make: Callable[[], Any]) -> Any:
        """Call `make()` on the chief alone, and return its result (picklable) on every rank.

        A UserError that it raises is raised on every rank.
        """
        outcome: tuple[Any, str | None] = (None, None)
        if self.is_chief:
            try:
                outcome = (make(), None)
            except UserError as error:
                outcome = (None, str(error))
        result, message = self.broadcast(outcome)
        if message is not None:
            raise UserError(message, shared=True)
        return result

    def verify_same(self, facts: Mapping[str, str]) -> None:
        """Raise UserError on every rank if a fact differs between ranks, naming fact and rank."""
        rows = self.gather(dict(facts))
        for rank, row in enumerate(rows):
            for name in sorted(rows[0].keys() | row.keys()):
                if row.get(name) != rows[0].get(name):
                    raise UserError(
                        f"rank {rank} differs from rank 0 in {name}: {row.get(name)!r} instead of "
                        f"{rows[0].get(name)!r}. Start all ranks with the same command, code, "
                        "package versions and data",
                        shared=True,
                    )
