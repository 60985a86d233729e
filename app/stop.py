"""A wish to stop: SIGTERM or SIGINT, from Kubernetes, a scheduler, a host that goes, or Ctrl-C.

While training runs, a wish is only noted: the loop passes it on to all ranks inside a step, and all
stop at the same one (app/loop.py). At any other time it ends what is being done at once, by raising
`Interrupted`; the newest checkpoint stands. Kubernetes gives 30 seconds; a stop takes at most 20.

Python's own handler has to wait for TensorFlow, and what TensorFlow waits for may never come: over
MPI a collective does not end when another rank has. So a thread hears of signals too.

Knows nothing of workers and loads no TensorFlow, so that a process listens from its first moment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from app.errors import STOPPED
from app.monitor.logs import STORY
from app.pulse import PULSE

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_WISH_S = 2.0  # launchers and terminals often send two signals for one wish
REACH_S = 15.0  # to bring training to a commit point; then the newest checkpoint stands
END_S = 20.0  # to have it on disk as well
AT_ONCE_S = 5.0  # to come back to Python, where a wish ends what is being done


class Stopped(BaseException):
    """The run has ended because it was asked to.

    Not an Exception: it may be raised anywhere, and nobody may take it for a fault of what was
    being done.
    """


class Interrupted(Stopped):
    """The run was asked to stop while it did not train, and has ended at once."""


class Stop:
    """Whether this process has been asked to stop. `listening()` comes first."""

    def __init__(
        self, reach_s: float = REACH_S, end_s: float = END_S, at_once_s: float = AT_ONCE_S
    ) -> None:
        self.signal: signal.Signals | None = None
        self.interrupted: Interrupted | None = None  # what was raised
        self.speaks = True  # whether this process may print
        self._reach_s, self._end_s, self._at_once_s = reach_s, end_s, at_once_s
        self._listens = self._deferred = False
        self._asked_at = 0.0
        self._reached = threading.Event()

    @property
    def wanted(self) -> bool:
        """Whether there is a wish."""
        return self.signal is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals in the block; those of another thread than the main one are Python's own.

        An `Interrupted` that is raised in the middle of TensorFlow may come out as another
        exception: what leaves the block is the `Interrupted`.
        """
        if self._listens or threading.current_thread() is not threading.main_thread():
            yield
            return
        hears, tells = os.pipe()
        os.set_blocking(tells, False)
        self._listens, self.signal, self.interrupted = True, None, None
        self._reached.clear()
        # Its own: a thread that looks late must not wait for the end of the next block.
        over = threading.Event()
        threading.Thread(target=self._hear, args=(hears, over), name="stop", daemon=True).start()
        descriptor = signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        except Exception as error:
            if self.interrupted is None:
                raise
            STORY.info("%s, which came out as %r", self.interrupted, error)
            raise self.interrupted from error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(descriptor)
            self._listens = False
            over.set()
            os.close(tells)

    @contextlib.contextmanager
    def deferred(self, is_deferred: bool = True) -> Iterator[None]:
        """In the block a wish is only noted, or, if False, raises `Interrupted` again."""
        before, self._deferred = self._deferred, is_deferred
        try:
            yield
        finally:
            self._deferred = before

    @property
    def _limit_s(self) -> float:
        if self.signal is None and not self._deferred:
            return self._at_once_s
        return self._end_s if self._reached.is_set() else self._reach_s

    def reached(self) -> None:
        """Training has ended at a commit point; what is left is to write it."""
        self._reached.set()

    def _handle(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is not None:
            if now - self._asked_at > SAME_WISH_S:  # it is urgent
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.signal, self._asked_at = signal.Signals(number), now
        PULSE.ask_to_stop()
        if not self._deferred:
            self.interrupted = Interrupted(f"stopped by {self.signal.name} in {PULSE.phase}")
            raise self.interrupted

    def _hear(self, descriptor: int, over: threading.Event) -> None:
        """Wait for the number of a signal, until `listening` is over."""
        with open(descriptor, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                if number[0] in SIGNALS:
                    self._give_up(signal.Signals(number[0]).name, over)

    def _give_up(self, name: str, over: threading.Event) -> None:
        """End this process if the orderly end takes too long."""
        began = time.monotonic()
        while time.monotonic() - began < self._limit_s:
            if over.wait(0.05):
                return
        message = (
            f"stopped by {name}, but still in {PULSE.phase} after "
            f"{time.monotonic() - began:.0f} s: ending now; the newest checkpoint stands"
        )
        STORY.error(message)
        if self.speaks:
            print(message, file=sys.stderr, flush=True)
        os._exit(STOPPED)


STOP = Stop()
