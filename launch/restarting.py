"""Starts all ranks of an elastic run: the first time, and again where nothing less helps."""

from __future__ import annotations

from collections.abc import Sequence

from launch.ending import Ending
from launch.line import KILL
from launch.orders import Form
from launch.places import STARTS, Place
from launch.state import FORMING, RESTARTING, Run
from launch.supervise import FAIL_S

RESTARTS = 3  # in a row that do not pass the highest step that was reached


class Restarting:
    """Ends what is left, then starts all from the newest commit."""

    def __init__(self, run: Run, ending: Ending):
        self._run, self._ending = run, ending
        self._all = self._fruitless = self._best_before = 0

    def start(self, places: Sequence[Place], now: float) -> None:
        """Start ranks at these places as the first world."""
        run = self._run
        run.members, run.number = list(places), 0
        for rank, place in enumerate(places):
            place.begin(STARTS, rank, now)
        run.enter(FORMING, now)
        run.orders.append(Form(0, tuple(p.number for p in places), True, run.directory))

    def restart(self, why: str, code: int, now: float) -> None:
        """End all ranks, to start them again; end the run if that has not helped before. `code`:
        the exit code then."""
        run = self._run
        if run.best_step > self._best_before:
            self._fruitless = 0
        if self._fruitless == RESTARTS:
            told = f"{why}: {RESTARTS} restarts have not passed step {run.best_step}"
            self._ending.fail(now, None, told, code)
            return
        self._all, self._fruitless = self._all + 1, self._fruitless + 1
        self._best_before = run.best_step
        times = {1: "1st", 2: "2nd", 3: "3rd"}.get(self._all, f"{self._all}th")
        run.say(f"restarting all ranks after step {run.best_step} ({times} time): {why}")
        run.enter(RESTARTING, now)
        run.trained = False
        for place in run.busy:
            if place.has_agent:
                run.do([place], KILL)
            else:
                run.abandon(place)
        self.again(now)

    def again(self, now: float) -> None:
        """Start all ranks, if all have ended: where there is an agent, or one may be tried; where
        that is too few, at all places."""
        run = self._run
        if run.busy:
            return
        usable = [place for place in run.places if run.usable(place)]
        ready = [place for place in usable if place.has_agent or place.retry_s <= now]
        if len(ready) < run.terms.min_ranks:
            ready = usable
        if len(ready) < run.terms.min_ranks or not ready:
            why = f"fewer than {run.terms.min_ranks} ranks are left to start again"
            self._ending.fail(now, None, why)
            return
        self.start(ready[: run.terms.max_ranks], now)

    def tick(self, now: float) -> None:
        """Give up agents that cannot end their ranks."""
        run = self._run
        if run.mode == RESTARTING and now - run.mode_s > run.terms.heartbeat_s + FAIL_S:
            for place in run.busy:
                run.abandon(place)
            self.again(now)
