"""Turns what ranks and their launcher print into what a user wants to read.

Lines of rank 0 lose their prefix, those of others become `[1] ...`. Once a rank has begun to say
why it ends, the errors of the others are held back: they are nearly always echoes. At the end, the
rank that ended first is named.
"""

import re
import signal
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from app.errors import STOPPED, USER_ERROR
from launch import pod

# [JOB,RANK]<stdout>: of mpirun. It is repeated inside a line, after a carriage return or where a
# rank wrote the line in pieces.
PREFIX = re.compile(rb"\[\d+,(\d+)\]<(?:stdout|stderr)>:")
# How a rank begins to say why it ends: app/commands/command_line.py, Python, its fault handler.
LAST_WORDS = re.compile(rb"error: |rank \d+ of \d+ failed:|Traceback \(most rec|Fatal Python error")
ECHO = re.compile(rb"an exchange failed; has another rank ended|Horovod background loop uncaught")
STOPS = re.compile(rb"stopped by ")  # the end of a rank that was asked to: not the first to end
MPI_EXIT = re.compile(r"Process name: \[\[\d+,\d+\],(\d+)\]\s+Exit code: +(\d+)")
MPI_SIGNAL = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exited on signal (\d+)")
MPI_LOST = re.compile(r"lost communication with a remote daemon.*Remote daemon: \S+ on node (\S+)")
SIGNALLED, SSH_LOST, TERMINATED = 128, 255, 128 + signal.SIGTERM
LINES_HELD, LINES_OF_LAUNCHER, LINES_LAST = 200, 60, 40


class Report:
    """Takes every line of a launcher, shows those meant for the user, and reports what failed.

    `hosts`: the host name of each rank. Where ranks come and go, this is about places; `named`
    tells which rank is at one. `called`: what people call them, if not rank 1, 2, ...
    """

    def __init__(self, hosts: Sequence[str], errors: BinaryIO, called: Sequence[str] = ()):
        self._hosts = dict(enumerate(hosts))
        self._called = dict(enumerate(called))
        self._errors = errors
        self._speaker: int | None = None
        self._spoke: set[int] = set()
        self._held: dict[int, deque[bytes]] = defaultdict(lambda: deque(maxlen=LINES_HELD))
        self._last: dict[int, deque[bytes]] = defaultdict(lambda: deque(maxlen=LINES_LAST))
        self._launcher: deque[str] = deque(maxlen=LINES_OF_LAUNCHER)
        self._exits: dict[int, int] = {}
        self._lost: list[int] = []
        self._names: dict[int, int | None] = {}  # place -> rank, where they differ

    def named(self, place: int, rank: int | None, host: str) -> None:
        """A place has this rank from now on; None: a newcomer, of no world yet."""
        self._names[place] = rank
        self._hosts = {**self._hosts, place: host}

    def recovered(self) -> None:
        """What ranks have said of a failure is of no more use: they go on."""
        self._speaker = None
        self._spoke.clear()
        self._held.clear()
        self._last.clear()

    def tell(self, text: str) -> None:
        """Say what has happened."""
        self._say(text)

    def output(self, rank: int, text: bytes, screen: BinaryIO) -> None:
        """A line of a rank's standard output."""
        self._last[rank].append(text)
        self._show(rank, text, screen)

    def error(self, rank: int | None, text: bytes) -> None:
        """A line of a rank's standard error, or of anything that mpirun says itself (None)."""
        if rank is None:
            self._launcher.append(text.decode(errors="replace").rstrip())
            return
        self._last[rank].append(text)
        if self._speaker is None and LAST_WORDS.match(text):
            self._speaker = rank
        if ECHO.search(text) or STOPS.match(text) or self._speaker not in (None, rank):
            self._held[rank].append(text)
        else:
            self._spoke.add(rank)
            self._show(rank, text, self._errors)

    def exited(self, rank: int, status: int) -> None:
        """A rank has ended with this status, as a shell gives it; call it in that order."""
        self._exits.setdefault(rank, status)

    def lost(self, rank: int) -> None:
        """A rank is gone, and only mpirun may know why."""
        self._lost.append(rank)

    def ended(self, code: int) -> int:
        """After the last line: say why the launcher ended with `code`; returns our exit code."""
        if code == 0:
            for rank, lines in self._held.items():
                for line in lines:
                    self._show(rank, line, self._errors)
            return 0
        first = self._first()
        if first is None:
            return self._launcher_failed(code)
        rank, status = first
        if rank not in self._spoke:
            for line in self._held[rank]:
                self._show(rank, line, self._errors)
        if status == USER_ERROR and (rank in self._spoke or self._held[rank]):
            pod.leave("", self._last[rank])  # its own error is all there is to say
            return status
        text = f"error: {self._who(rank)} {reason(status)}"
        remedy = pod.advice(self._hosts.get(rank, "")) if status == SSH_LOST else ""
        self._conclude(f"{text}; {remedy}" if remedy else text, self._last[rank])
        return status

    def stopped(self, number: int) -> int:
        """After the last line, if the user has ended the ranks with a signal."""
        self._conclude(f"stopped by {signal.Signals(number).name}")
        return SIGNALLED + number

    def stopped_well(self, by: str) -> int:
        """After the last line, if all ranks have ended at a commit point because they were asked
        to. `by`: what asked them."""
        held = [lines for rank, lines in self._held.items() if self._names.get(rank, rank) == 0]
        own = [line for lines in held for line in lines if STOPS.match(line)]
        self._conclude(own[0].decode(errors="replace").rstrip() if own else f"stopped by {by}")
        return STOPPED

    def stuck(self, why: str, code: int) -> int:
        """After the last line, if ranks were ended because they did not go on."""
        spoken = self._last[self._speaker] if self._speaker is not None else ()
        self._conclude(f"error: {why}", spoken)
        return code

    def _first(self) -> tuple[int, int] | None:
        """(rank, its exit status as a shell gives it) of the first that failed by itself."""
        text = "\n".join(self._launcher)
        exits = list(self._exits.items())
        exits += [(int(m[1]), int(m[2])) for m in MPI_EXIT.finditer(text)]
        exits += [(int(m[1]), SIGNALLED + int(m[3])) for m in MPI_SIGNAL.finditer(text)]
        exits += [(rank, SSH_LOST) for rank in self._lost]
        failed = [exit for exit in exits if exit[1]]
        own = [
            exit
            for exit in failed
            if exit[1] not in (TERMINATED, STOPPED) and not self._only_echoed(exit[0])
        ]
        return next(iter([*own, *failed]), None)

    def _only_echoed(self, rank: int) -> bool:
        return rank not in self._spoke and any(map(ECHO.search, self._held[rank]))

    def _launcher_failed(self, code: int) -> int:
        lost = MPI_LOST.search(" ".join(self._launcher))
        if lost:
            remedy = pod.advice(lost[1]) or "is it still up?"
            self._conclude(f"error: the connection to host {lost[1]} was lost: {remedy}")
        else:
            last = list(self._launcher)[-15:]
            for line in last:
                self._say(line)
            self._conclude(
                f"error: the launcher failed (exit code {code}) before any rank did",
                [line.encode(errors="replace") for line in last],
            )
        return code if 0 < code < SIGNALLED else 1

    def _who(self, rank: int) -> str:
        many = len(set(self._hosts.values())) > 1 and rank in self._hosts
        name = self._names.get(rank, rank)
        told = f"newcomer {rank}" if name is None else self._called.get(rank, f"rank {name}")
        return told + (f" on host {self._hosts[rank]}" if many else "")

    def _show(self, rank: int, text: bytes, screen: BinaryIO) -> None:
        name = self._names.get(rank, rank)
        prefix = b"[+%d] " % rank if name is None else b"[%d] " % name if name else b""
        if prefix and rank in self._called:
            prefix = f"[{self._called[rank]}] ".encode()
        screen.write(prefix + text)
        screen.flush()

    def _conclude(self, text: str, last: Iterable[bytes] = ()) -> None:
        """Say how the launch has ended, to Kubernetes too. `last`: lines of what failed."""
        pod.leave(text, last)
        self._say(text)

    def _say(self, text: str) -> None:
        self._errors.write(text.encode(errors="replace") + b"\n")
        self._errors.flush()


def split(line: bytes) -> tuple[int | None, bytes]:
    """The rank that wrote a line of mpirun's output, and what it wrote; None: mpirun itself."""
    prefix = PREFIX.match(line)
    return (int(prefix[1]), PREFIX.sub(b"", line)) if prefix else (None, line)


def reason(status: int) -> str:
    """`was killed by SIGKILL ...`, from an exit status as a shell gives it."""
    if status == SSH_LOST:
        return "ended: its process was killed, or the ssh connection to its host was lost"
    if status > SIGNALLED:
        number = status - SIGNALLED
        known = number in {int(known) for known in signal.Signals}
        name = signal.Signals(number).name if known else f"signal {number}"
        memory = " (the kernel does that when memory runs out)" if number == signal.SIGKILL else ""
        return f"was killed by {name}{memory}"
    return f"ended with exit code {status}"
