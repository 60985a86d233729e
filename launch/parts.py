"""The tasks of a launch with parameter servers: where each runs, and what is known of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from app.distributed.launcher import called
from app.pulse import Reading

# Between starts of a worker that fails again and again; the others go on meanwhile. After so long
# at work, earlier failures are forgotten.
FIRST_S, LONGEST_S, STEADY_S = 2.0, 60.0, 15.0


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a task runs. `number`, `of`: which of the workers of its host, of how many."""

    role: str
    index: int
    host: str
    number: int = 0
    of: int = 1


class Part:
    """What is known of a task, and of the process that has it now."""

    def __init__(self, number: int, slot: Slot):
        self.number, self.role, self.index, self.host = number, slot.role, slot.index, slot.host
        self.slot = slot
        here = f" on {self.host}" if self.host != "localhost" else ""
        self.name = called(self.role, self.index) + here
        self.failures = 0
        self.retry_s = float("inf")  # when to start it again
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Its process starts."""
        self.started_s = self.heard_s = now
        self.status: int | None = None
        self.reading: Reading | None = None
        self.state = ""
        self.asked = False
        self.why: str | None = None  # one sentence, if we end it
        self.retry_s = float("inf")

    def hear(self, message: dict[str, Any], now: float) -> None:
        """Note a report of its agent."""
        self.heard_s = now
        self.reading = Reading(**message["reading"]) if message.get("reading") else None
        self.state = str(message.get("state", ""))
        self.asked = self.asked or bool(message.get("asked"))

    @property
    def step(self) -> int:
        """The step that it has reached."""
        return self.reading.step if self.reading else 0

    def fail(self, now: float) -> float:
        """It has failed: when it is started again, in s from now; later each time, unless it went
        well for a while."""
        if now - self.started_s >= STEADY_S:
            self.failures = 0
        wait_s = min(FIRST_S * 2.0 ** min(self.failures - 1, 20), LONGEST_S) if self.failures else 0
        self.failures += 1
        self.retry_s = now + wait_s
        return wait_s
