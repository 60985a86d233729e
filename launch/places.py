"""The places of ranks: (host, slot). Each has one agent, which may start its rank several times."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from app.pulse import Reading
from launch.watch import STOPPED, Seen

# Of a place: no rank; its rank starts; trains; waits at the door for its next world.
EMPTY, STARTS, TRAINS, WAITS = "empty", "starts", "trains", "waits"
FIRST_S, LONGEST_S = 2.0, 600.0  # between starts on a host where ranks fail again and again
STEADY_S = 60.0  # after so long in training, earlier failures of the host are forgotten


class Slot(NamedTuple):
    """Where a rank may run: the host, which of its slots, and how many it has."""

    host: str
    number: int
    of: int


class Place:
    """What is known of a place and of the rank there."""

    def __init__(self, number: int, slot: Slot, now: float):
        self.number, self.slot, self.host = number, slot, slot.host
        self.rank: int | None = None  # in the present world
        self.stage = EMPTY
        self.has_agent = False  # it has called, and its line holds
        self.retry_s = now  # not started again before
        self.status: int | None = None  # how its rank has ended
        self.begin(EMPTY, None, now)

    def begin(self, stage: str, rank: int | None, now: float) -> None:
        """A rank starts here, in the first world (`rank`) or as a newcomer (None)."""
        self.stage, self.rank, self.started_s, self.heard_s = stage, rank, now, now
        self._fresh_s = now  # what was before says nothing of how it does
        self.reading: Reading | None = None
        self.state, self.code = "", ""
        self.asked = self.recovers = False
        self.fatal: str | None = None
        self.why: str | None = None  # one sentence, if we end it
        self.member_s: float | None = None  # since when it trains
        self.stopped_s: float | None = None  # since when its process is stopped
        self.kill_s = float("inf")  # when to
        if stage != EMPTY:
            self.status = None

    @property
    def is_newcomer(self) -> bool:
        """Whether a rank is here that was never in this world."""
        return self.stage != EMPTY and self.rank is None

    @property
    def step(self) -> int:
        """The step that its rank has reached."""
        return self.reading.step if self.reading else 0

    def hear(self, message: dict[str, Any], now: float) -> None:
        """Note a report of the agent."""
        self.heard_s = now
        self.reading = Reading(**message["reading"]) if message.get("reading") else None
        if self.reading and self.reading.age_s > now - self._fresh_s:
            self.reading = self.reading._replace(age_s=now - self._fresh_s)
        self.asked = self.asked or bool(message.get("asked"))
        self.state = str(message.get("state", ""))
        if self.state != STOPPED:
            self.stopped_s = None
        elif self.stopped_s is None:
            self.stopped_s = now

    def freshen(self, now: float) -> None:
        """From now on its rank is to go on, whatever kept it before: it has said something, or
        whom it waited for is gone."""
        self._fresh_s = now
        if self.reading:
            self.reading = self.reading._replace(age_s=0.0)
        if self.kill_s < float("inf"):
            self.kill_s, self.why = float("inf"), None

    def seen(self, now: float) -> Seen:
        """For watch.py."""
        number = self.number if self.rank is None else self.rank
        return Seen(number, self.host, self.reading, self.state, now - self.heard_s)

    @property
    def who(self) -> str:
        """`rank 1 on h2`."""
        name = f"rank {self.rank}" if self.rank is not None else f"newcomer {self.number}"
        return name + (f" on {self.host}" if self.host != "localhost" else "")


class Patience:
    """How long to wait before a rank is started again on a host: longer after each failure."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()

    def failed(self, place: Place, now: float) -> None:
        """A rank has failed here, or its agent was lost."""
        if place.member_s is not None and now - place.member_s >= STEADY_S:
            self._failures[place.host] = 0
        count = self._failures[place.host]
        self._failures[place.host] += 1
        place.retry_s = now + (min(FIRST_S * 2.0 ** min(count - 1, 20), LONGEST_S) if count else 0)
