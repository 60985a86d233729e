"""Watch the ranks of a launch to their end: pass signals on, end all if one is stuck or fails.

Nothing here waits without end: ranks that do not start, do not stop or do not go on are ended.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Any

from app.elastic.line import Line
from app.errors import FAILURE, STOPPED, STUCK
from app.pulse import Reading
from launch.agents import Agents
from launch.line import DUMP, KILL, STOP
from launch.orphans import end_orphans
from launch.watch import Seen, halted, stuck

LOOK_S = 0.2
ASLEEP_S = 5.0  # after such a gap we were stopped ourselves, and know nothing of the ranks
START_S = 90.0  # until every agent has called
STOP_S = 25.0  # for the last checkpoint: Kubernetes gives a pod 30 s
FAIL_S = 5.0  # for the others to notice, once a rank has failed or is stuck
DUMP_S = 1.0
CLOSE_S = 10.0  # for agents and mpirun to end after their ranks


class Rank:
    """What is known of one rank."""

    def __init__(self, rank: int, host: str):
        self.rank, self.host = rank, host
        self.line: Line | None = None
        self.status: int | None = None  # exit status, as a shell gives it
        self.reading: Reading | None = None
        self.state = ""
        self.asked = self.lost = False
        self.heard_s = time.monotonic()

    def hear(self, message: dict[str, Any]) -> None:
        """Note what the agent says."""
        self.heard_s = time.monotonic()
        if "ended" in message:
            self.status = int(message["ended"])
            self.asked = self.asked or self.status == STOPPED
            return
        self.reading = Reading(**message["reading"]) if message.get("reading") else None
        self.state = str(message.get("state", ""))
        self.asked = self.asked or bool(message.get("asked"))

    def tell(self, order: str) -> None:
        """Send an order, if the rank is there."""
        if self.line and self.status is None:
            self.line.send({"do": order})

    @property
    def seen(self) -> Seen:
        """For watch.py."""
        silent_s = time.monotonic() - self.heard_s
        return Seen(self.rank, self.host, self.reading, self.state, silent_s)


class Supervisor(Agents):
    """The ranks of one launch. Make it, give its `line` to the agents, start these, then `run`."""

    def __init__(self, hosts: Sequence[str], address: str):
        super().__init__(hosts, address)
        self._ranks = [Rank(rank, host) for rank, host in enumerate(hosts)]
        self._why: str | None = None  # one sentence, if ranks are stuck
        self._started_s = self._looked_s = time.monotonic()
        self._stopping = self._failing = self._killing = False
        self._kill_at = float("inf")

    def run(self) -> int:
        """Wait for the end of all; returns the exit code for the user."""
        self._listen()
        while any([process.poll() is None for process in self._processes.values()]):
            self._note_ends()
            self._look()
            time.sleep(LOOK_S)
        end_orphans()
        for reader in self._readers:
            reader.join(CLOSE_S)
        self._hear_out()
        self._note_ends()
        return self._judge()

    def _hear_out(self) -> None:
        """Wait for the last words of agents that have called: mpirun may end before we have read
        how a rank on another host ended. Those that we have killed have none."""
        deadline = time.monotonic() + (0 if self._killing else CLOSE_S)
        while time.monotonic() < deadline and any(
            rank.line and rank.status is None and not rank.lost for rank in self._ranks
        ):
            time.sleep(LOOK_S / 4)

    def _look(self) -> None:
        """Do what is due now."""
        now = time.monotonic()
        if now - self._looked_s > ASLEEP_S:
            for rank in self._ranks:
                rank.heard_s = now
        self._looked_s = now
        alive = [rank for rank in self._ranks if rank.status is None]
        if len(self._signals) > 1 or now > self._kill_at:
            self._kill(now)
        elif self._failing:
            return
        elif any(rank.status not in (None, 0, STOPPED) or rank.lost for rank in self._ranks):
            self._why = halted([rank.seen for rank in alive])  # why others lost patience
            self._end(FAIL_S)
        elif not alive:
            self._failing = True
            self._kill_at = now + CLOSE_S
        elif not self._stopping and (self._signals or any(rank.asked for rank in self._ranks)):
            self._stopping = True
            self._tell(STOP)
            self._kill_at = now + STOP_S
        else:
            self._watch(alive, now)

    def _watch(self, alive: Sequence[Rank], now: float) -> None:
        missing = [rank for rank in alive if rank.line is None]
        if not missing:
            self._why = stuck([rank.seen for rank in alive])
        elif now - self._started_s > START_S:
            host = missing[0].host
            self._why = f"rank {missing[0].rank} on {host} did not start within {START_S:.0f} s"
        if self._why is None:
            return
        if not missing:
            self._why += "; every rank's log shows what it was doing (RUN/logs/rank-*.log)"
            self._tell(DUMP)
            time.sleep(DUMP_S)
        self._end(FAIL_S)

    def _end(self, grace_s: float) -> None:
        """Give the ranks a little time, then kill them."""
        self._failing = True
        self._tell(STOP)
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)

    def _kill(self, now: float) -> None:
        """Kill the ranks; where that does not help, their agents."""
        if self._killing:
            return
        self._note_ends()
        self._killing = self._failing = True  # how ranks end from now on is our doing
        self._tell(KILL)
        deadline = now + FAIL_S
        while time.monotonic() < deadline and self._alive():
            time.sleep(LOOK_S / 4)
        for process in self._alive():
            process.kill()

    def _tell(self, order: str) -> None:
        for rank in self._ranks:
            rank.tell(order)

    def _note_ends(self) -> None:
        """Whatever ended, by what its agent said or by the end of its agent."""
        for number, process in self._processes.items():
            code = process.poll()
            if number is not None and code is not None and self._ranks[number].status is None:
                self._ranks[number].status = code if code >= 0 else 128 - code
        for rank in self._ranks:
            if rank.status is not None and not self._killing:
                self.report.exited(rank.rank, rank.status)

    def _judge(self) -> int:
        """What the user is told at the end, and the exit code."""
        codes = {rank.status for rank in self._ranks}
        if self._why:
            return self.report.stuck(self._why, STUCK if "did not start" not in self._why else 1)
        if codes <= {0, STOPPED} and STOPPED in codes:
            asked = [rank for rank in self._ranks if rank.asked]
            by = signal.Signals(self._signals[0]).name if self._signals else ""
            return self.report.stopped_well(
                by or f"a signal to rank {asked[0].rank if asked else 0}"
            )
        if codes == {0}:
            return self.report.ended(0)
        if self._signals:
            return self.report.stopped(self._signals[0])
        mpirun = self._processes.get(None)
        if mpirun is None:
            return self.report.ended(FAILURE)
        for rank in self._ranks:
            if rank.lost and rank.status is None:
                self.report.lost(rank.rank)
        code = mpirun.returncode or FAILURE  # it may have ended as if all were well
        return self.report.ended(code if code > 0 else 128 - code)

    def _expected(self) -> int:
        return len(self._ranks)

    def _greet(self, number: int, line: Line) -> None:
        rank = self._ranks[number]
        rank.line, rank.heard_s = line, time.monotonic()
        if self._stopping or self._failing:
            rank.tell(STOP)

    def _heard(self, number: int, line: Line, message: dict[str, Any]) -> None:
        self._ranks[number].hear(message)

    def _broken(self, number: int, line: Line) -> None:
        if self._ranks[number].status is None:
            self._ranks[number].lost = True
