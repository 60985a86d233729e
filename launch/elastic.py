"""Supervises the ranks of an elastic run: hears their agents, lets policy.py decide, and does it.

All that happens is an event of one queue, so decisions are made by one thread, at once.

What ranks and supervisor say to each other through the door (app/elastic/door.py), by way of an
agent that only passes it on:

    rank: member     it trains in world number `world`, of the run in directory `run`; `recovers`:
                     it can go on in a new world; `code`: what all ranks must have in common
    rank: waits      it has left its world, or is a newcomer that is ready, and wants the next one
    rank: asks       the chief, at a commit point: these ranks were asked to stop
    rank: fatal      it will end, for a reason that recovery would not mend
    rank: trained    the chief: training is over, so nobody joins any more
    told: world      the `number` of the next world, and Horovod's `variables` of this rank in it
    told: cut        a rank has failed: cut the lines to the others
    told: newcomers  the chief: so many wait to be let in at a commit point
    told: answer     the chief: which ranks leave at this commit point, or whether all stop at it
    told: ping       the supervisor lives
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from app.checkpoints import mirror
from app.elastic.line import Line
from app.errors import FAILURE, STOPPED
from launch import gloo
from launch.agents import Agents
from launch.commands import Placement
from launch.line import DOOR_VARIABLE, FENCE, LEAVE, LINE_VARIABLE, PING, START, TELL
from launch.orders import Abandon, Do, Form, Formed, Join, Order, Say, Tell
from launch.orphans import end_orphans
from launch.places import Place, Slot
from launch.policy import Policy
from launch.report import SSH_LOST
from launch.state import Terms
from launch.supervise import CLOSE_S
from launch.worlds import Worlds

TICK_S = 0.1


class Event(NamedTuple):
    """Something that an agent or the line to it does. `message`: None if the line broke."""

    place: int
    line: Line
    message: dict[str, Any] | None
    at_s: float


class Elastic(Agents):
    """The ranks of one launch. `environ`: of every rank."""

    def __init__(
        self,
        placement: Placement,
        slots: Sequence[Slot],
        terms: Terms,
        environ: Mapping[str, str],
        look: Callable[[], Mapping[str, int] | None] | None = None,
    ):
        super().__init__([slot.host for slot in slots], gloo.own_address(placement.interface))
        self._placement, self._terms, self._environ, self._look = placement, terms, environ, look
        self._worlds = Worlds(placement.interface)
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lines: dict[int, Line] = {}
        self._abandoned: list[subprocess.Popen[bytes]] = []
        self._pinged_s = float("-inf")
        self._handled = 0  # signals
        self._policy = Policy(slots, terms, time.monotonic())

    def run(self) -> int:
        """Until the end of all ranks; returns the exit code for the user."""
        self._listen()
        self._policy.begin(time.monotonic())
        while not self._policy.ending.done:
            self._carry_out()
            with contextlib.suppress(queue.Empty):
                self._take(self._events.get(timeout=TICK_S))
                while True:
                    self._take(self._events.get_nowait())
            now = time.monotonic()
            for number in self._signals[self._handled :]:
                self._handled += 1
                self._policy.signalled(signal.Signals(number).name, now)
            self._note_ends(now)
            found = self._look() if self._look else None
            if found:
                self._policy.joining.hosts(found, now)
            self._policy.tick(now)
            self._ping(now)
        self._carry_out()
        self._close()
        return self._judge()

    # What happens.

    def _expected(self) -> int:
        return len(self._policy.run.places)

    def _greet(self, number: int, line: Line) -> None:
        self._events.put(Event(number, line, {}, time.monotonic()))

    def _heard(self, number: int, line: Line, message: dict[str, Any]) -> None:
        self._events.put(Event(number, line, message, time.monotonic()))

    def _broken(self, number: int, line: Line) -> None:
        self._events.put(Event(number, line, None, time.monotonic()))

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        super()._signalled(number, frame)
        self._events.put(None)

    def _take(self, event: Event | None) -> None:
        """Pass an event on, unless it is of an agent that we have given up."""
        if event is None:
            return
        place, line, message, now = event
        if message == {}:
            if place in self._lines:
                self._lines[place].close()  # of an agent that was given up before it called
            self._lines[place] = line
            self._policy.called(place, now)
        elif self._lines.get(place) is not line:
            return
        elif message is None:
            del self._lines[place]
            if gloo.is_local(self._policy.run.places[place].host) and place in self._processes:
                self._processes[place].kill()  # its rank ends with it
        elif "ended" in message:
            self._policy.ended(place, int(message["ended"]), now)
        elif "said" in message:
            self._policy.said(place, message["said"], now)
        else:
            self._policy.reported(place, message, now)

    def _note_ends(self, now: float) -> None:
        """Agents that are gone: both their process and their line."""
        for place in self._policy.run.places:
            process = self._processes.get(place.number)
            if place.number not in self._lines and process and process.poll() is not None:
                del self._processes[place.number]
                code = process.returncode
                status = 128 - code if code < 0 else code or SSH_LOST
                self._policy.lost(place.number, None, now, status)

    def _ping(self, now: float) -> None:
        if now - self._pinged_s >= min(1.0, self._terms.heartbeat_s / 6):
            self._pinged_s = now
            for line in list(self._lines.values()):
                line.send({"do": PING})

    # What is done.

    def _carry_out(self) -> None:
        orders, self._policy.run.orders = self._policy.run.orders, []
        for order in orders:
            self._carry(order)

    def _carry(self, order: Order) -> None:
        places = self._policy.run.places
        match order:
            case Form():
                self._form(order)
            case Formed():
                self._worlds.formed()
                with self._lock:
                    self.report.recovered()
            case Join(place, run):
                alone = self._worlds.alone(places[place].host)
                self._begin(places[place], None, alone, run, joins=True)
            case Tell(place, message):
                self._send(place, {"do": TELL, "message": message})
            case Do(place, what):
                self._send(place, {"do": what})
            case Abandon(place):
                self._abandon(place)
            case Say(text):
                with self._lock:
                    self.report.tell(text)

    def _form(self, order: Form) -> None:
        """Open a new world, and give it to its ranks."""
        places = [self._policy.run.places[number] for number in order.places]
        told = self._worlds.open([place.host for place in places])
        for rank, (place, variables) in enumerate(zip(places, told, strict=True)):
            if order.starts:
                self._begin(place, rank, variables, order.run, joins=False)
                continue
            self.report.named(place.number, rank, place.host)
            world = {"number": order.number, "variables": variables}
            self._send(place.number, {"do": TELL, "message": {"world": world}})

    def _begin(
        self,
        place: Place,
        rank: int | None,
        variables: Mapping[str, str],
        run: str | None,
        joins: bool,
    ) -> None:
        """Start a rank, by its agent if that is there."""
        self.report.named(place.number, rank, place.host)
        door = {
            "place": place.number,
            "fence_s": FENCE * self._terms.heartbeat_s,
            "run": run,
            "joins": joins,
            "slot": place.slot.number,
            "slots": place.slot.of,
            "grows": self._terms.max_ranks > 1,
        }
        told = {DOOR_VARIABLE: json.dumps(door)}
        if place.has_agent:
            self._send(place.number, {"do": START, "environ": {**variables, **told}})
            return
        self._abandon(place.number)
        told[LINE_VARIABLE] = self.line
        environ = {**self._environ, **variables}
        command, own, given = gloo.agent(self._placement, place.host, environ, told)
        self.start(place.number, command, own, given)

    def _send(self, place: int, message: dict[str, Any]) -> None:
        if place in self._lines:
            self._lines[place].send(message)

    def _abandon(self, place: int) -> None:
        """End an agent, if there is one. That on another host ends by itself, in time."""
        line = self._lines.pop(place, None)
        if line:
            line.close()
        process = self._processes.pop(place, None)
        if process:
            process.kill()
            self._abandoned.append(process)

    def _close(self) -> None:
        """End the agents, and read what they still say."""
        for line in self._lines.values():
            line.send({"do": LEAVE})
        deadline = time.monotonic() + CLOSE_S
        while time.monotonic() < deadline and self._alive():
            time.sleep(TICK_S / 4)
        for process in self._alive():
            process.kill()
        for process in self._abandoned:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(CLOSE_S)
        end_orphans()
        if self._policy.run.directory:
            mirror.clear(Path(self._policy.run.directory))
        for reader in self._readers:
            reader.join(CLOSE_S)

    def _judge(self) -> int:
        """What the user is told at the end, and the exit code."""
        ending, members = self._policy.ending, self._policy.run.members
        if ending.why:
            return self.report.stuck(ending.why, ending.code)
        first = [ending.first] if ending.first else []
        for place in [*first, *members]:
            if place.status is not None:
                self.report.exited(place.number, place.status)
        codes = {place.status for place in members}
        if not first and codes <= {0, STOPPED} and STOPPED in codes:
            return self.report.stopped_well(ending.by or "a signal")
        if not first and codes == {0}:
            return self.report.ended(0)
        if self._signals:
            return self.report.stopped(self._signals[0])
        return self.report.ended(FAILURE)
