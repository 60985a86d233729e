"""Watch coordinator, workers and parameter servers to their end.

A worker that fails is started again: its batch was dealt to another meanwhile. When a server or the
coordinator fails, all are started again, and go on from the newest commit. The coordinator is the
run: it is asked to stop, its end is the end of all, and its exit code is ours.
"""

from __future__ import annotations

import contextlib
import queue
import time
from pathlib import Path
from signal import Signals
from typing import Any

from app.checkpoints import mirror
from app.distributed.launcher import COORDINATOR, SERVER, WORKER
from app.elastic.line import Line
from app.errors import FAILURE, STOPPED, STUCK, USER_ERROR
from launch import gloo
from launch.line import DUMP, KILL, LEAVE, STOP
from launch.orphans import end_orphans
from launch.part_agents import PartAgents
from launch.parts import Part
from launch.report import SSH_LOST, reason
from launch.restarting import RESTARTS
from launch.supervise import ASLEEP_S, CLOSE_S, DUMP_S, FAIL_S, LOOK_S, START_S, STOP_S
from launch.watch import Seen, blame, who

RUNNING, RESTARTING, ENDING = "running", "restarting", "ending"
LINGER_S = 1.0  # after the coordinator has failed: has a server?


class Tasks(PartAgents):
    """The tasks of one launch; arguments as of `PartAgents`."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._mode = RUNNING
        self._stopping = self._killing = False
        self._by = ""  # what asked for a stop
        self._why: str | None = None  # one sentence, if all are ended for it
        self._first: Part | None = None  # whose end is the end of all
        self._code = FAILURE
        self._kill_s = self._restart_s = float("inf")
        self._restart_why = ""
        self._restarts = self._fruitless = self._best_before = self._best = 0
        self._looked_s = time.monotonic()

    @property
    def _coordinator(self) -> Part:
        return self._parts[0]

    def _of(self, role: str) -> list[Part]:
        return [part for part in self._parts if part.role == role]

    def run(self) -> int:
        """Until the end of all; returns the exit code for the user."""
        self._listen()
        self._start_all(time.monotonic())
        while self._mode != ENDING:
            with contextlib.suppress(queue.Empty):
                self._take(*self._events.get(timeout=LOOK_S))
                while True:
                    self._take(*self._events.get_nowait())
            now = time.monotonic()
            self._note_lost(now)
            self._look(now)
            self._ping(now)
        self._close()
        return self._judge()

    # What happens.

    def _take(self, number: int, line: Line, message: dict[str, Any] | None) -> None:
        part, now = self._parts[number], time.monotonic()
        if message == {}:
            self._lines[number] = line
            part.heard_s = now
        elif self._lines.get(number) is not line:
            return
        elif message is None:
            del self._lines[number]
            if gloo.is_local(part.host) and number in self._processes:
                self._processes[number].kill()  # its child ends with it
        elif "ended" in message:
            self._ended(part, int(message["ended"]), now)
        elif "said" in message:
            if member := message["said"].get("member"):
                self._directory = str(member["run"])
        else:
            part.hear(message, now)
            if part is self._coordinator:
                self._best = max(self._best, part.step)

    def _note_lost(self, now: float) -> None:
        """Agents that are gone, both process and line, or out of reach."""
        if now - self._looked_s > ASLEEP_S:  # we were stopped ourselves
            for part in self._parts:
                part.heard_s = now
        self._looked_s = now
        for part in self._parts:
            process, line = self._processes.get(part.number), self._lines.get(part.number)
            if line and part.status is None and now - part.heard_s > self._heartbeat_s:
                part.why = f"{part.name}: no word from its host for {now - part.heard_s:.0f} s"
                self._abandon(part)
                self._ended(part, SSH_LOST, now)
            elif line is None and process and process.poll() is not None:
                del self._processes[part.number]
                code = process.returncode
                if part.status is None:
                    self._ended(part, 128 - code if code < 0 else code or SSH_LOST, now)
            elif line is None and process and now - part.started_s > START_S:
                part.why = f"{part.name} did not start within {START_S:.0f} s"
                self._abandon(part)
                self._ended(part, FAILURE, now)

    def _ended(self, part: Part, status: int, now: float) -> None:
        """The process of a task has ended."""
        part.status = status
        if self._mode != RUNNING:
            return
        text = part.why or f"{part.name} {reason(status)}"
        is_early = self._directory is None and status == FAILURE
        if part.role == COORDINATOR and status in (0, STOPPED):
            self._end(part)
        elif status == USER_ERROR or is_early or self._killing:
            self._end(part, part.why)
        elif part.role == WORKER:
            self._worker_ended(part, status, text, now)
        elif self._stopping:
            self._end(part, part.why)
        elif part.role == SERVER:
            self._restart(text, now)
        else:
            self._restart_s, self._restart_why = now + LINGER_S, text

    def _worker_ended(self, part: Part, status: int, text: str, now: float) -> None:
        if status == STOPPED:
            part.asked = True
            self.report.tell(f"{part.name} has left, since it was asked to")
            if all(one.status is not None and one.asked for one in self._of(WORKER)):
                self._stop("a signal to every worker", now)
        elif not self._stopping:
            wait_s = part.fail(now)
            when = f"in {wait_s:.0f} s" if wait_s else "now"
            self.report.tell(f"{text}: it is started again {when}")

    def _look(self, now: float) -> None:
        """Do what is due now."""
        if self._mode == ENDING:
            return
        if len(self._signals) > 1 or now > self._kill_s:
            self._kill(now)
        if self._signals:
            self._stop(Signals(self._signals[0]).name, now)
        for part in (self._coordinator, *self._of(SERVER)):
            if part.asked:
                self._stop(f"a signal to {part.name}", now)
        if now > self._restart_s:
            self._restart(self._restart_why, now)
        if self._mode == RESTARTING:
            if all(part.status is not None for part in self._parts):
                self._start_all(now)
            elif now > self._kill_s:
                for part in self._parts:
                    if part.status is None:
                        self._abandon(part)
                        part.status = SSH_LOST
            return
        for part in self._parts:
            if part.retry_s <= now and not self._stopping:
                self._begin(part, now)
            self._look_at(part, now)

    def _look_at(self, part: Part, now: float) -> None:
        """End a process that is stuck."""
        if part.status is not None or part.number not in self._lines or part.why:
            return
        seen = Seen(part.number, "localhost", part.reading, part.state, now - part.heard_s)
        found = blame([seen])
        if found is None:
            return
        part.why = found.why.replace(who(seen), part.name, 1)
        if part.role == WORKER:
            self._send(part, {"do": DUMP})
            time.sleep(DUMP_S)
            self._send(part, {"do": KILL})
            return
        part.why += "; every log shows what it was doing (RUN/logs/rank-*.log)"
        for one in self._parts:
            self._send(one, {"do": DUMP})
        time.sleep(DUMP_S)
        self._end(part, part.why, STUCK)

    # What is done.

    def _stop(self, by: str, now: float) -> None:
        """Have the coordinator end the run at a commit point."""
        if self._stopping:
            return
        self._stopping, self._by = True, by
        if self._mode == RESTARTING:
            self._end(self._coordinator)
            return
        self._kill_s = now + STOP_S
        self._send(self._coordinator, {"do": STOP})

    def _kill(self, now: float) -> None:
        if self._mode == RUNNING and not self._killing:
            self._killing = True
            self._kill_s = now + FAIL_S
            self._send(self._coordinator, {"do": KILL})
        elif self._mode == RUNNING and now > self._kill_s:
            self._end(self._coordinator)

    def _restart(self, why: str, now: float) -> None:
        """End all, to start them again; end the run if that has not helped before."""
        self._restart_s = float("inf")
        if self._best > self._best_before:
            self._fruitless = 0
        if self._directory is None or self._fruitless == RESTARTS:
            times = f": {RESTARTS} restarts have not passed step {self._best}"
            self._end(self._coordinator, why + (times if self._fruitless else ""), FAILURE)
            return
        self._restarts, self._fruitless = self._restarts + 1, self._fruitless + 1
        self._best_before = self._best
        times = {1: "1st", 2: "2nd", 3: "3rd"}.get(self._restarts, f"{self._restarts}th")
        self.report.tell(f"restarting all after step {self._best} ({times} time): {why}")
        self._mode, self._kill_s = RESTARTING, now + self._heartbeat_s + FAIL_S
        for part in self._parts:
            if part.status is None and part.number in self._lines:
                self._send(part, {"do": KILL})
            elif part.status is None:
                self._abandon(part)
                part.status = SSH_LOST

    def _start_all(self, now: float) -> None:
        with self._lock:
            self.report.recovered()
        self._mode, self._kill_s = RUNNING, float("inf")
        for part in reversed(self._parts):
            self._begin(part, now)

    def _end(self, first: Part, why: str | None = None, code: int | None = None) -> None:
        """It is over. `first`: whose end counts; `why`, `code`: if there is more to say."""
        self._mode, self._first, self._why = ENDING, first, why
        self._code = FAILURE if code is None else code

    def _close(self) -> None:
        """End the others, workers first, and read what they still say."""
        for role in (COORDINATOR, WORKER, SERVER):
            parts = self._of(role)
            for part in parts:
                self._send(part, {"do": LEAVE})
            own = [self._processes[part.number] for part in parts if part.number in self._processes]
            deadline = time.monotonic() + CLOSE_S
            while time.monotonic() < deadline and any(one.poll() is None for one in own):
                time.sleep(LOOK_S / 4)
            for one in own:
                if one.poll() is None:
                    one.kill()
        end_orphans()
        if self._directory:
            mirror.clear(Path(self._directory))
        for reader in self._readers:
            reader.join(CLOSE_S)

    def _judge(self) -> int:
        """What the user is told at the end, and the exit code."""
        first = self._first
        assert first is not None
        if self._why:
            return self.report.stuck(self._why, self._code)
        status = first.status
        if first is self._coordinator and status == 0:
            return self.report.ended(0)
        if first is self._coordinator and status == STOPPED:
            return self.report.stopped_well(self._by or "a signal to the coordinator")
        if self._signals:
            return self.report.stopped(self._signals[0])
        self.report.exited(first.number, status if status is not None else FAILURE)
        return self.report.ended(FAILURE)
