"""Ranks that are threads of this process, and go from one world into another together."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from app.classifier import Classifier
from app.distributed.world import World
from app.elastic.door import Door
from app.elastic.member import Landing, Member
from app.monitor.progress import Progress
from app.recipe import load
from app.state import Kind, TrainState


class Meeting:
    """Where the ranks of a world swap what they have."""

    def __init__(self, size: int):
        self._barrier = threading.Barrier(size)
        self._desk: list[Any] = [None] * size

    def swap(self, rank: int, value: Any) -> list[Any]:
        self._desk[rank] = value
        self._barrier.wait(60)
        found = list(self._desk)
        self._barrier.wait(60)
        return found


class MeetingWorld(World):
    """A world of threads. `next_meeting` is where `move_into` leads."""

    may_change = True

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        self.next_meeting: Meeting | None = None
        self._meeting: Meeting | None = None

    def move_out(self) -> None:
        self._meeting = None

    def move_into(self, variables: Mapping[str, str]) -> None:
        self.rank, self.size = int(variables["RANK"]), int(variables["SIZE"])
        self._meeting = self.next_meeting

    def gather(self, value: Any) -> list[Any]:
        assert self._meeting is not None
        return self._meeting.swap(self.rank, value)

    def broadcast(self, value: Any) -> Any:
        return self.gather(value)[0]

    def broadcast_variables(self, variables: Sequence[Any], root: int = 0) -> None:
        for variable in variables:
            variable.assign(self.gather(variable.numpy())[root])


class KnownDoor(Door):
    """A door to one world, which is known beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.grows = True
        self.said: list[dict[str, Any]] = []
        self.leads_to: dict[str, str] = {}

    def say(self, what: str, value: Any) -> None:
        self.said.append({what: value})

    def next_world(self) -> Mapping[str, str]:
        self.world += 1
        return self.leads_to


class Rank:
    """A rank with a member. `value`: of each of its variables but random generators."""

    def __init__(self, classifier: Classifier, rank: int, size: int, **position: int):
        self.world, self.door = MeetingWorld(rank, size), KnownDoor()
        self.state = TrainState(classifier, classifier.optimizer, seed=3, **position)
        self.member = Member(load(None, {}), self.world, self.state, self.door)

    def has(self, value: float) -> None:
        for variable in self.variables.values():
            variable.assign(np.full(variable.shape, value, variable.dtype))

    @property
    def variables(self) -> dict[str, keras.Variable]:
        return {e.path: e.variable for e in self.state.entries if e.kind is not Kind.DERIVED}

    @property
    def values(self) -> set[float]:
        """That its variables are made of."""
        return {float(one) for v in self.variables.values() for one in v.numpy().ravel()}

    @property
    def metrics(self) -> list[float]:
        return [float(v.numpy()) for metric in self.state.model.metrics for v in metric.variables]

    def counts(self, *values: float) -> None:
        """The values of its metrics' variables."""
        variables = [v for metric in self.state.model.metrics for v in metric.variables]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def cross(
    ranks: Sequence[Rank],
    planned: bool = False,
    pending: Sequence[Progress | None] = (),
    newcomers: Sequence[Rank] = (),
) -> list[Landing]:
    """All ranks into one world, in this order, then the newcomers."""
    everybody = [*ranks, *newcomers]
    meeting = Meeting(len(everybody))
    for number, one in enumerate(everybody):
        one.world.next_meeting = meeting
        one.door.leads_to = {"RANK": str(number), "SIZE": str(len(everybody))}
    ends = [*pending, *[None] * (len(everybody) - len(pending))]

    def of(one: Rank, end: Progress | None) -> Landing:
        is_new = one in newcomers
        return one.member.cross(planned or is_new, end, is_new)

    with ThreadPoolExecutor(len(everybody)) as pool:
        return list(pool.map(of, everybody, ends))
