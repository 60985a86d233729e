"""How an elastic run ends: stopped in order, over, or because something cannot be recovered from.

Nothing waits without end: what does not end by itself is killed.
"""

from __future__ import annotations

from app.errors import FAILURE
from launch.line import KILL, STOP
from launch.places import Place
from launch.state import ENDING, Run
from launch.supervise import CLOSE_S, FAIL_S, STOP_S


class Ending:
    """Until `done`. `by`: what asked for a stop; `why`, `code`: if ranks were ended for a reason
    that is not how one of them ended; `first`: the place that failed before all others."""

    def __init__(self, run: Run):
        self._run = run
        self._kill_s = float("inf")
        self.failing = self.killing = self.done = False
        self.by = ""
        self.why: str | None = None
        self.code = FAILURE
        self.first: Place | None = None

    def stop(self, by: str, now: float) -> None:
        """All ranks stop at the next commit point."""
        if self._run.stopping or self.failing:
            return
        self._run.stopping, self.by = True, by
        self._run.dismiss_newcomers()
        self._run.do(self._run.busy, STOP)
        self._kill_s = now + STOP_S

    def fail(
        self, now: float, first: Place | None, why: str | None = None, code: int = FAILURE
    ) -> None:
        """Something cannot be recovered from: end all ranks."""
        if self.failing:
            return
        self.failing, self.first, self.why, self.code = True, first, why, code
        self._run.enter(ENDING, now)
        self._run.dismiss_newcomers()
        for place in self._run.busy:
            if not place.has_agent:
                self._run.abandon(place)
        self._run.do(self._run.busy, STOP)
        self._kill_s = min(self._kill_s, now + FAIL_S)

    def over(self, now: float) -> None:
        """A rank has ended as it should: the others will, too."""
        self._run.enter(ENDING, now)
        self._run.dismiss_newcomers()

    def kill(self, now: float) -> None:
        """Kill all ranks; how they end from now on is our doing."""
        if self.killing:
            return
        self.killing = self.failing = True
        self._run.enter(ENDING, now)
        self._run.do(self._run.busy, KILL)
        self._kill_s = now + CLOSE_S

    def tick(self, now: float) -> None:
        """Do what is due now."""
        if self._run.mode == ENDING and (
            not self._run.busy or (self.killing and now > self._kill_s)
        ):
            self.done = True
        elif now > self._kill_s:
            self.kill(now)
