"""Watch the ranks of a launch to their end: pass signals on, end all if one is stuck or fails.

Nothing here waits without end: ranks that do not start, do not stop or do not go on are ended.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO, Any

from app.elastic.line import Line
from app.errors import FAILURE, STOPPED, STUCK
from app.pulse import Reading
from launch.line import DUMP, KILL, STOP, greeting
from launch.orphans import SET_PDEATHSIG, adopt_orphans, end_orphans
from launch.report import Report, split
from launch.watch import Seen, halted, stuck

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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


class Supervisor:
    """The ranks of one launch. Make it, give its `line` to the agents, start these, then `run`."""

    def __init__(self, hosts: Sequence[str], address: str):
        self.report = Report(hosts, sys.stderr.buffer)
        self._ranks = [Rank(rank, host) for rank, host in enumerate(hosts)]
        self._processes: dict[int | None, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._token = secrets.token_hex(16)
        self._server = socket.create_server((address, 0), backlog=len(hosts) + 8)
        self.line = f"{address}:{self._server.getsockname()[1]}:{self._token}"
        self._signals: list[int] = []
        self._why: str | None = None  # one sentence, if ranks are stuck
        self._started_s = self._looked_s = time.monotonic()
        self._stopping = self._failing = self._killing = False
        self._kill_at = float("inf")
        adopt_orphans()
        for number in SIGNALS:
            signal.signal(number, self._signalled)

    def start(
        self, rank: int | None, command: Sequence[str], environ: dict[str, str], given: bytes = b""
    ) -> None:
        """Start the agent of a rank, or mpirun (None). `given`: for its standard input."""
        prctl = ctypes.CDLL(None).prctl
        process = subprocess.Popen(
            list(command),
            env=environ,
            cwd="/",
            stdin=subprocess.PIPE if given else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches it only through us
            preexec_fn=lambda: prctl(SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
        )
        self._processes[rank] = process
        self._thread(self._read, rank, process.stdout, False)
        self._thread(self._read, rank, process.stderr, True)
        if given:
            self._thread(_give, process.stdin, given)

    def run(self) -> int:
        """Wait for the end of all; returns the exit code for the user."""
        threading.Thread(target=self._accept, daemon=True).start()
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

    def _alive(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self._processes.values() if process.poll() is None]

    def _tell(self, order: str) -> None:
        for rank in self._ranks:
            rank.tell(order)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

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

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            threading.Thread(target=self._hear, args=(connection,), daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        """Listen to one agent, until its line breaks."""
        line = Line(connection)
        rank: Rank | None = None
        for message in line.messages():
            if rank is None:
                number = greeting(message, self._token, len(self._ranks))
                if number is None:
                    break
                rank = self._ranks[number]
                rank.line, rank.heard_s = line, time.monotonic()
                if self._stopping or self._failing:
                    rank.tell(STOP)
            else:
                rank.hear(message)
        if rank and rank.status is None:
            rank.lost = True
        line.close()

    def _thread(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        self._readers.append(thread)

    def _read(self, rank: int | None, stream: IO[bytes], is_error: bool) -> None:
        for line in stream:
            speaker, text = split(line) if rank is None else (rank, line)
            with self._lock:
                if is_error or speaker is None:
                    self.report.error(speaker, text)
                else:
                    self._output(speaker, text)

    def _output(self, rank: int, text: bytes) -> None:
        try:
            self.report.output(rank, text, sys.stdout.buffer)
        except BrokenPipeError:  # the reader of our output has seen enough: | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._signalled(signal.SIGPIPE, None)


def _give(stream: IO[bytes], given: bytes) -> None:
    try:
        stream.write(given)
        stream.close()
    except BrokenPipeError:
        pass  # it has ended; its exit code tells
