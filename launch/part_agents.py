"""The agents of coordinator, workers and servers: how they start, what they say and are told.

What an agent does comes as an event of one queue, so that decisions (tasks.py) are made by one
thread.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.distributed.launcher import called
from app.elastic.line import Line
from launch import gloo
from launch.agents import Agents
from launch.commands import Placement
from launch.line import DOOR_VARIABLE, FENCE, LINE_VARIABLE, PING, START
from launch.noise import Noise
from launch.parts import Part, Slot
from launch.report import Report
from launch.supervise import CLOSE_S


class PartAgents(Agents):
    """The agents of all parts. `environ`: of every process; `told`: of each of them; `heartbeat_s`:
    a process without word for so long is lost."""

    def __init__(
        self,
        placement: Placement,
        slots: Sequence[Slot],
        environ: Mapping[str, str],
        told: Sequence[Mapping[str, str]],
        heartbeat_s: float,
    ):
        super().__init__([slot.host for slot in slots], gloo.own_address(placement.interface))
        self._parts = [Part(number, slot) for number, slot in enumerate(slots)]
        names = [called(slot.role, slot.index) for slot in slots]
        self.report = Report([slot.host for slot in slots], sys.stderr.buffer, names)
        self._placement, self._environ, self._told = placement, environ, told
        self._heartbeat_s = heartbeat_s
        # (part, its line, what came; {}: a call, None: the line broke)
        self._events: queue.SimpleQueue[tuple[int, Line, dict | None]] = queue.SimpleQueue()
        self._lines: dict[int, Line] = {}
        self._directory: str | None = None  # of the run, once it trains
        self._pinged_s = time.monotonic()

    def _expected(self) -> int:
        return len(self._parts)

    def _read(self, number: int | None, stream: Iterable[bytes], is_error: bool) -> None:
        noise = Noise()
        told = (line for line in stream if not (is_error and noise.is_in(line)))
        super()._read(number, told, is_error)

    def _greet(self, number: int, line: Line) -> None:
        self._events.put((number, line, {}))

    def _heard(self, number: int, line: Line, message: dict[str, Any]) -> None:
        self._events.put((number, line, message))

    def _broken(self, number: int, line: Line) -> None:
        self._events.put((number, line, None))

    def _begin(self, part: Part, now: float) -> None:
        """Start the process of a task, by its agent if that is there."""
        part.begin(now)
        door = {
            "place": part.number,
            "fence_s": FENCE * self._heartbeat_s,
            "run": self._directory,
            "joins": False,
            "slot": part.slot.number,
            "slots": part.slot.of,
            "grows": False,
        }
        told = {DOOR_VARIABLE: json.dumps(door)}
        if part.number in self._lines:
            environ = {**self._told[part.number], **told}
            self._send(part, {"do": START, "environ": environ})
            return
        self._abandon(part)
        told[LINE_VARIABLE] = self.line
        environ = {**self._environ, **self._told[part.number]}
        command, own, given = gloo.agent(self._placement, part.host, environ, told)
        self.start(part.number, command, own, given)

    def _send(self, part: Part, message: dict[str, Any]) -> None:
        if part.number in self._lines:
            self._lines[part.number].send(message)

    def _ping(self, now: float) -> None:
        if now - self._pinged_s >= min(1.0, self._heartbeat_s / 6):
            self._pinged_s = now
            for line in list(self._lines.values()):
                line.send({"do": PING})

    def _abandon(self, part: Part) -> None:
        """End an agent, if there is one. That on another host ends by itself, in time."""
        if line := self._lines.pop(part.number, None):
            line.close()
        if process := self._processes.pop(part.number, None):
            process.kill()
            with contextlib.suppress(Exception):
                process.wait(CLOSE_S)
