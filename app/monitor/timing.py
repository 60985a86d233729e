"""Where the time of a step goes: input, compute, exposed exchange, other; on each rank."""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

PARTS = ("input", "compute", "exchange", "other")  # of a step, see RankTimes


class Clock:
    """Counts the examples of all ranks, passes, the seconds that training on them took, and of
    those the seconds that this rank waited for input or spent in the step.

    Steps in which TensorFlow compiles, and the time between epochs, are not counted.
    """

    def __init__(self) -> None:
        self.examples = 0
        self.passes = 0
        self.seconds = 0.0
        self.waited = 0.0
        self.stepped = 0.0
        self._last: float | None = None
        self._waited_now = 0.0
        self._given: float | None = None

    def begin(self) -> None:
        """An epoch begins: its input is prepared from now on."""
        self._last = time.perf_counter()
        self._waited_now = 0.0

    def waits_for(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; the time until each is there counts as waiting."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._given = time.perf_counter()
            self._waited_now += self._given - asked
            yield batch

    def tick(self, examples: int, compiled: bool, waited_s: float | None = None) -> None:
        """A pass over `examples` has been started; `compiled`: it was compiled first. `waited_s`:
        for its input, where `waits_for` does not know."""
        now = time.perf_counter()
        if self._last is not None and not compiled:
            self.examples += examples
            self.passes += 1
            self.waited += self._waited_now if waited_s is None else waited_s
            self.stepped += now - self._given if self._given is not None else 0.0
            self.seconds += now - self._last
        self._last = now
        self._waited_now = 0.0

    def pause(self) -> None:
        """Training has reached the last example; do not count the time until the next pass."""
        if self._last is not None:
            self.seconds += time.perf_counter() - self._last
        self._last = None

    @property
    def waited_share(self) -> float:
        """The share of the time spent waiting for input."""
        return self.waited / self.seconds if self.seconds > 0 else 0.0

    @property
    def mark(self) -> "Mark":
        """Now, to count from."""
        return Mark(self.examples, self.passes, self.seconds, self.waited, self.stepped)

    def since(self, mark: "Mark | None" = None) -> "Mark":
        """What was counted since a mark, or from the beginning."""
        before = dataclasses.astuple(mark or Mark())
        counts = zip(dataclasses.astuple(self.mark), before, strict=True)
        return Mark(*(now - then for now, then in counts))


@dataclasses.dataclass(frozen=True)
class Mark:
    """Counts of a `Clock`, up to a moment or between two."""

    examples: int = 0
    passes: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    stepped: float = 0.0

    @property
    def examples_per_second(self) -> float:
        """Examples/s of all ranks."""
        return self.examples / self.seconds if self.seconds > 0 else 0.0


@dataclasses.dataclass(frozen=True)
class RankTimes:
    """Seconds per step of each rank, float64 (ranks,) each; they add up to the whole step.

    input: waiting for a batch; exchange: from the last local gradient to the last one received,
    and waiting for the others before a report; compute: the rest of the step; other: callbacks,
    reports and whatever else the loop does.
    """

    input: np.ndarray
    compute: np.ndarray
    exchange: np.ndarray
    other: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """The whole step."""
        return self.input + self.compute + self.exchange + self.other

    @property
    def work(self) -> np.ndarray:
        """A rank's own work, without waiting for others: shows the slow ranks."""
        return self.input + self.compute + self.other

    @classmethod
    def of(cls, table: np.ndarray) -> "RankTimes":
        """From (steps, seconds, waited, stepped, exchange) of each rank, float64 (ranks, 5); steps
        are fractions where some of their passes were not timed."""
        steps, seconds, waited, stepped, exchange = table.T
        steps = np.where(steps > 0, steps, 1.0)
        exchange = np.minimum(exchange, stepped)
        return cls(
            waited / steps,
            (stepped - exchange) / steps,
            exchange / steps,
            np.maximum(seconds - waited - stepped, 0) / steps,
        )
