"""What this process is doing now, and since when, for whoever watches it from outside.

A rank that is stuck cannot say so: it may be stopped, or wait in a system call, or loop in a
callback. So each rank writes its phase and every sign of progress into a page of shared memory,
which costs about a microsecond, and the process that started it reads the page (launch/). The time
spent in each phase is added up here too.

Knows nothing of workers and loads no TensorFlow.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

PAGE_VARIABLE = "LOCKSTEP_PULSE"  # the file descriptor of the page, inherited
PAGE_BYTES = 4096
# (count of writes, last progress and limit in s, optimizer step, in a collective, wants to stop,
# phase): a reader that finds an odd count, or another count afterwards, has met a write.
LAYOUT = struct.Struct("<qddq??64s")
STEP_TIMEOUT_S, PHASE_TIMEOUT_S = 120.0, 600.0
READS = 20
# Those of every step, and what is as short.
STEP_PHASES = ("input", "step", "callbacks", "reports", "agreement", "checkpoint", "recovery")


class Reading(NamedTuple):
    """A page at one moment. `waits`: in a collective, so for other ranks; `age_s`: since the last
    sign of progress; `limit_s`: the age from which the rank counts as stuck."""

    step: int
    phase: str
    waits: bool
    wants_stop: bool
    age_s: float
    limit_s: float


class Pulse:
    """The phase of this process; of its main thread, since phases do not overlap."""

    def __init__(self, page: mmap.mmap | None = None):
        self._page = page or mmap.mmap(-1, PAGE_BYTES)
        self._writes = 0
        self._limits = (STEP_TIMEOUT_S, PHASE_TIMEOUT_S)
        self._waits = self._wants_stop = False
        self.step = 0
        self.phase = "start"
        self.seconds: dict[str, float] = defaultdict(float)  # by phase, of those that are over
        self._since = time.monotonic()
        self._limit: float | None = None
        self.beat()

    @classmethod
    def inherited(cls) -> Pulse:
        """That of the page of whoever started this process; of a page of its own otherwise."""
        return cls(_inherited_page())

    def begin_anew(self) -> None:
        """This process was forked just now: nothing is left of what its parent did."""
        self.__init__(_inherited_page())  # type: ignore[misc]

    def limits(self, step_s: float, phase_s: float) -> None:
        """How long a step, and any other phase, may go without progress."""
        self._limits = (step_s, phase_s)
        self.beat()

    def beat(self) -> None:
        """There is progress."""
        limit = self._limit or self._limits[0 if self.phase in STEP_PHASES else 1]
        said = (time.monotonic(), limit, self.step, self._waits, self._wants_stop)
        self._writes += 2
        struct.pack_into("<q", self._page, 0, self._writes - 1)
        LAYOUT.pack_into(self._page, 0, self._writes - 1, *said, self.phase.encode()[:64])
        struct.pack_into("<q", self._page, 0, self._writes)

    def enter(self, phase: str, limit_s: float | None = None) -> None:
        """Another phase begins. `limit_s`: instead of the usual limit; infinity for none."""
        now = time.monotonic()
        self.seconds[self.phase] += now - self._since
        self.phase, self._since, self._limit = phase, now, limit_s
        self.beat()

    @contextlib.contextmanager
    def during(self, phase: str, limit_s: float | None = None) -> Iterator[None]:
        """A phase within another one, which goes on afterwards."""
        before, before_limit = self.phase, self._limit
        self.enter(phase, limit_s)
        try:
            yield
        finally:
            self.enter(before, before_limit)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """In a collective: what is missing is another rank."""
        before, self._waits = self._waits, True
        self.beat()
        try:
            yield
        finally:
            self._waits = before
            self.beat()

    def ask_to_stop(self) -> None:
        """This rank has been asked to stop; whoever watches tells the others."""
        self._wants_stop = True
        self.beat()

    @property
    def total_seconds(self) -> dict[str, float]:
        """By phase, with the present one so far."""
        now = time.monotonic() - self._since
        return {**self.seconds, self.phase: self.seconds[self.phase] + now}


def _inherited_page() -> mmap.mmap | None:
    # Not for our own children: they might have another file under this number.
    descriptor = os.environ.pop(PAGE_VARIABLE, "")
    try:
        page = mmap.mmap(int(descriptor), PAGE_BYTES)
        os.close(int(descriptor))
    except (ValueError, OSError):
        return None
    return page


def read(page: mmap.mmap) -> Reading | None:
    """What a page says now; None if nothing was written yet. Of a process on this host."""
    for _ in range(READS):
        writes, changed, limit, step, waits, wants_stop, phase = LAYOUT.unpack_from(page, 0)
        if writes % 2 == 0 and struct.unpack_from("<q", page, 0)[0] == writes:
            break
        time.sleep(0.001)  # unless the process was stopped or killed while it wrote
    if not writes:
        return None
    name = phase.rstrip(b"\0").decode(errors="replace")
    return Reading(step, name, waits, wants_stop, max(0.0, time.monotonic() - changed), limit)


PULSE = Pulse.inherited()
