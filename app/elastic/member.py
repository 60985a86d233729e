"""How a rank gets from one world into the next: after a failure, or at a commit point.

A failed exchange leaves some ranks a step ahead of others. All go on from the highest step that any
of them has finished, where variables are whole after each step (`optimizer.is_plain`), and
otherwise from the newest commit point, of which every rank keeps a copy in memory. Newcomers get
everything from the others.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from app.config import Config
from app.distributed.guard import ReplicasDiverged
from app.distributed.replicas import broadcast_state
from app.distributed.world import World
from app.elastic.door import DOOR, Door
from app.elastic.memory import Memory, scale_owed
from app.monitor.progress import Progress
from app.pulse import PULSE
from app.state import Kind, TrainState
from app.version import code_version

NOTHING = -1  # the step of a newcomer
# As what an exchange that failed is raised: in a graph or eagerly; by Python around it. Horovod's
# own complaints, of shapes that differ and the like, are others, and would only come again.
LOST = (tf.errors.UnknownError, tf.errors.AbortedError, tf.errors.CancelledError, RuntimeError)
WHOLE = (Kind.REPLICATED, Kind.DERIVED)


class Row(NamedTuple):
    """What a rank brings into a new world."""

    step: int
    position: dict[str, int]
    totals: list[Any]  # of the metrics, over all ranks, at the newest commit point,
    totals_of: int  # in this epoch
    pending: Progress | None
    size: int  # of its world before


class Landing(NamedTuple):
    """How a rank has come into a new world: whether it has gone back to a commit point; whether
    steps must be traced anew; the epoch whose end is still to be seen to; for people."""

    went_back: bool
    retraces: bool
    pending: Progress | None
    text: str


class Member:
    """This rank, in the worlds of a run.

    Args:
        config, world, state: the loop's; the world is changed in place.
        door: to the supervisor; if it is shut, nothing here does anything.
    """

    def __init__(self, config: Config, world: World, state: TrainState, door: Door = DOOR):
        self._world = world
        self._state = state
        self._door = door
        self._memory: Memory | None = None
        self._totals: list[np.ndarray] = []  # see Row
        self._totals_of = NOTHING
        facts = config.facts() | code_version()
        self._code = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        self._directory = str(config.run.run_dir)
        gpus = tf.config.get_visible_devices("GPU")
        by_host = config.distribution.sync == "hierarchical"
        # In this process; otherwise the supervisor starts all ranks again.
        self.recovers = door.grows and world.may_change and not gpus and not by_host

    @property
    def newcomers(self) -> int:
        """How many wait to be let in; known to the chief."""
        return self._door.newcomers if self.recovers else 0

    def begins(self) -> None:
        """This rank trains from here on, with the state that all ranks have."""
        if self._memory is None:
            self.remembers(None)
        about = {"world": self._door.world, "run": self._directory}
        self._door.say("member", about | {"recovers": self.recovers, "code": self._code})

    def trained(self) -> None:
        """Training is over: nobody joins any more."""
        self._door.say("trained", self._state.step)

    @property
    def _is_whole(self) -> bool:
        """Whether live variables are those of a whole step, also after an exchange has failed."""
        state = self._state
        return state.optimizer.is_plain and all(entry.kind in WHOLE for entry in state.entries)

    def _forget(self) -> None:
        """Drop what a failure has left in mid-step."""
        self._state.optimizer.forget()
        for entry in self._state.entries:
            if entry.kind is Kind.LOCAL:
                entry.variable.assign(np.zeros(entry.variable.shape, entry.variable.dtype))

    def commits(self, totals: Sequence[np.ndarray], pending: Progress | None) -> None:
        """All ranks have this state. `totals`: of the metrics' variables, over all ranks."""
        if self.recovers:
            self._totals = list(totals)
            self._totals_of = self._state.epoch - (pending is not None)
        self.remembers(pending)

    def remembers(self, pending: Progress | None) -> None:
        """All ranks have this state, and can go back to it if they need one to go back to."""
        if self.recovers and not self._is_whole:
            self._memory = Memory.of(self._state, pending)

    def has_ended_epoch(self) -> None:
        """Nothing is pending any more."""
        if self._memory is not None:
            self._memory = dataclasses.replace(self._memory, pending=None)

    def survives(self, error: Exception) -> bool:
        """Whether another rank is gone, and this one can go on with others. What only speaks of
        Horovod, such as a path, is an error like any other."""
        is_exchange = isinstance(error, LOST) and not isinstance(error, ReplicasDiverged)
        return self.recovers and is_exchange and "horovod" in f"{type(error)} {error}".lower()

    def who_leaves(self, asked: Sequence[int]) -> tuple[bool, list[int]]:
        """These ranks were asked to stop: (whether all stop, else who leaves); a collective."""
        if not self.recovers:
            return True, []
        answer = self._door.ask(asked) if self._world.is_chief else None
        return self._world.broadcast(answer)

    def leaves(self) -> None:
        """End this rank's part in the present world, with all others, at a commit point."""
        self._world.move_out()

    def cross(self, planned: bool, pending: Progress | None, is_new: bool = False) -> Landing:
        """Into the next world, and to the state to go on from; a collective of its ranks.

        `planned`: at a commit point, otherwise after a failure.
        """
        state, world = self._state, self._world
        was, own = (world.rank, world.size), self._brings(planned, pending, is_new)
        led = world.is_chief
        world.move_out()
        self._forget()  # whatever is under way has failed by now, and none of it is to come later
        self._door.say("waits", {"step": own.step, "code": self._code})
        variables = self._door.next_world()
        with PULSE.during("recovery"):
            world.move_into(variables)
            landing = self._sync(own, planned, led)
        now = f"rank {world.rank} of {world.size}"
        text = f"{now}, which was rank {was[0]} of {was[1]}" if not is_new else f"{now}, new"
        self.begins()
        return landing._replace(text=f"goes on as {text}, from step {state.step}")

    def _brings(self, planned: bool, pending: Progress | None, is_new: bool) -> Row:
        state, world = self._state, self._world
        if is_new:
            return Row(NOTHING, state.position, [], NOTHING, None, 0)
        position = state.position
        if self._memory is not None and not planned:
            position, pending = self._memory.position, self._memory.pending
        totals = self._totals, self._totals_of
        return Row(position["step"], position, *totals, pending, world.size)

    def _sync(self, own: Row, planned: bool, led: bool) -> Landing:
        state, world = self._state, self._world
        rows: list[Row] = world.gather(own)
        # Of equal steps the one that is in the next epoch already: its end is pending.
        best = max(rows, key=lambda row: (row.step, row.position["epoch"]))
        root = rows.index(best)
        goes_back = not (planned or self._is_whole)
        if goes_back and world.rank == root:
            assert self._memory is not None
            self._memory.restore(state)
        others = any(row.position["unfrozen_at"] != best.position["unfrozen_at"] for row in rows)
        retraces = others or not state.optimizer.is_plain
        state.move_to(best.position)
        if retraces:
            state.optimizer.forget_kinds()
        broadcast_state(world, state.model, state.optimizer, state.seed, state.step, root)
        scale_owed(state, best.size / world.size)
        metrics = state.model.metrics
        if planned or goes_back or own.step == NOTHING:
            set_metrics(metrics, best.totals if world.is_chief else None)
        elif world.is_chief and not led and best.totals_of == state.epoch:
            add_to_metrics(metrics, best.totals)  # which the chief before had
        pending = next((row.pending for row in rows if row.pending and row.step == best.step), None)
        self.remembers(pending)
        self._totals, self._totals_of = best.totals, best.totals_of
        return Landing(goes_back, retraces, pending, "")


def set_metrics(metrics: Sequence[keras.metrics.Metric], totals: Sequence[Any] | None) -> None:
    """Give the variables of metrics these values; zeros if there are none."""
    variables = [variable for metric in metrics for variable in metric.variables]
    for index, variable in enumerate(variables):
        variable.assign(totals[index] if totals else np.zeros(variable.shape, variable.dtype))


def add_to_metrics(metrics: Sequence[keras.metrics.Metric], totals: Sequence[Any]) -> None:
    """Add these values to the variables of metrics."""
    variables = [variable for metric in metrics for variable in metric.variables]
    for variable, total in zip(variables, totals, strict=True):
        variable.assign_add(total)
