"""What happens when ranks of an elastic run fail, leave and join. Decides, and does nothing itself.

It is told what agents report and what time it is, and appends orders (orders.py), which elastic.py
carries out. A failure in training is recovered from in the ranks' processes: the survivors come to
the door and go on as a new world. Any other failure starts all ranks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.errors import FAILURE, STOPPED, STUCK, USER_ERROR
from launch.ending import Ending
from launch.joining import Joining
from launch.line import DUMP, KILL, STOP
from launch.orders import Abandon, Form, Formed
from launch.places import EMPTY, STARTS, TRAINS, WAITS, Place, Slot
from launch.report import SSH_LOST, reason
from launch.restarting import Restarting
from launch.state import ENDING, FORMING, RECOVERING, REJOINING, RESTARTING, RUNNING, Run, Terms
from launch.supervise import FAIL_S
from launch.watch import STOPPED as STATE_STOPPED
from launch.watching import Watching

REFILL_S = 60.0  # for newcomers, where fewer than the least number of ranks are left
DOOR_S, REJOIN_S = 120.0, 120.0  # for survivors to come to the door; for a new world to form
DUMP_S = 1.0  # for ranks to write where they are, before they are killed
CUT_S = 2.0  # after a rank has left, for the others to come to the door by themselves
CUT: dict[str, Any] = {"cut": True}


class Policy:
    """One run. Call `begin`, then the method of whatever happens, and `tick` often."""

    def __init__(self, slots: Sequence[Slot], terms: Terms, now: float):
        self.run = Run(slots, terms, now)
        self.ending = Ending(self.run)
        self.joining = Joining(self.run, self.ending)
        self._restarting = Restarting(self.run, self.ending)
        self._watching = Watching(self.run, now)
        self._signals = 0
        self._cut_s = self._restart_s = float("inf")  # when to do so
        self._stuck = ""
        self._why: list[str] = []  # of a failure that is being recovered from
        self._size = 0  # of the world before this one
        self._joined: list[Place] = []

    def begin(self, now: float) -> None:
        """Start all ranks, for the first time."""
        self._restarting.start(self.run.places[: self.run.terms.ranks], now)

    # What agents report.

    def called(self, number: int, now: float) -> None:
        """An agent is there."""
        place = self.run.places[number]
        place.has_agent, place.heard_s = True, now
        if place.stage == EMPTY or self.ending.killing:  # nobody waits for it any more
            self.run.abandon(place)
        elif self.ending.failing or self.run.stopping or not self.run.usable(place):
            self.run.do([place], STOP)

    def reported(self, number: int, message: dict[str, Any], now: float) -> None:
        """What a rank does now."""
        place = self.run.places[number]
        place.hear(message, now)
        if place.rank is not None and place.stage != EMPTY:
            self.run.best_step = max(self.run.best_step, place.step)
        if place.asked:
            self.joining.leave(place.host, f"a signal to {place.who}", now)

    def said(self, number: int, message: dict[str, Any], now: float) -> None:
        """A rank says something through its door."""
        place = self.run.places[number]
        place.freshen(now)
        if "member" in message:
            self._member(place, message["member"], now)
        elif "waits" in message:
            self._waits(place, str(message["waits"].get("code", "")), now)
        elif "asks" in message:
            self._answer(place, message["asks"], now)
        elif "fatal" in message:
            place.fatal = str(message["fatal"])
        elif "trained" in message:
            self.run.trained = True
            self.run.dismiss_newcomers()

    def ended(self, number: int, status: int, now: float) -> None:
        """The process of a rank has ended."""
        place, run = self.run.places[number], self.run
        if place.stage == EMPTY:
            return
        text = place.why or f"{place.who} {reason(status)}"
        if place.rank is not None and "(step " not in text:
            text += f" at step {place.step}"
        was_newcomer = place.is_newcomer
        place.stage, place.status = EMPTY, status
        if run.mode == ENDING:
            if place in run.members and status not in (0, STOPPED):
                self.ending.fail(now, place)
        elif run.mode == RESTARTING:
            self._restarting.again(now)
        elif was_newcomer:
            self.joining.failed(place, status, text, now)
        elif status == 0:
            self.ending.over(now)
        elif status == STOPPED:
            self._left(place, now)
        else:
            self._failed(place, status, text, now)

    def lost(self, number: int, why: str | None, now: float, status: int = SSH_LOST) -> None:
        """An agent is gone, or out of reach: so is its rank. `why`: None if it has ended, with
        this status."""
        place, run = self.run.places[number], self.run
        if not place.has_agent and place.rank is not None and run.directory is None:
            place.fatal = "its agent did not start"
        place.has_agent = False
        run.orders.append(Abandon(number))
        if place.stage != EMPTY:
            place.why = place.why or why
            self.ended(number, status, now)

    def signalled(self, name: str, now: float) -> None:
        """The user has sent a signal to the supervisor; at the second one nothing is waited for."""
        if self._signals:
            self.ending.kill(now)
        self._signals += 1
        self.ending.stop(name, now)

    def tick(self, now: float) -> None:
        """Do what is due now."""
        self._watching.awake(now)
        for place, why in self._watching.silent(now):
            self.lost(place.number, why, now)
        if self.run.mode != RESTARTING and not self.ending.failing:
            self._end_stuck(now)
        self._hurry(now)
        self.joining.hurry(now)
        self.joining.refill(now)
        self.ending.tick(now)

    # In training.

    def _member(self, place: Place, about: dict[str, Any], now: float) -> None:
        """A rank has found the others of its world, and trains."""
        run = self.run
        if place.stage != STARTS or place.rank is None or about["world"] != run.number:
            return
        place.stage, place.code = TRAINS, str(about["code"])
        place.recovers = bool(about["recovers"])
        place.member_s = place.member_s or now
        run.directory = str(about["run"])
        if run.mode in (FORMING, REJOINING) and all(m.stage == TRAINS for m in run.members):
            run.enter(RUNNING, now)
            run.orders.append(Formed())
            for joined in self._joined:
                sizes = f"{self._size} -> {len(run.members)} ranks at step {run.best_step}"
                run.say(f"{sizes}: {joined.who} has joined")
            self._joined = []
            self.joining.formed()

    def _waits(self, place: Place, code: str, now: float) -> None:
        """A rank is at the door, and wants its next world."""
        if place.is_newcomer:
            self.joining.ready(place, code)
        elif place.stage == TRAINS and self.run.mode in (RUNNING, RECOVERING):
            place.stage = WAITS
        elif place.stage in (STARTS, TRAINS) and self.run.mode in (FORMING, REJOINING):
            self._restart(f"{place.who} could not stay in its world", now)
        self._regroup(now)

    def _answer(self, chief: Place, asked: Sequence[int], now: float) -> None:
        """Who leaves at this commit point, and whether all stop at it."""
        run = self.run
        for place in run.live:
            if place.rank in asked:
                self.joining.leave(place.host, f"a signal to {place.who}", now)
        leaves = [place.rank for place in run.live if place.host in run.leaving]
        stops = run.stopping or len(run.live) - len(leaves) < run.terms.min_ranks
        run.tell(chief, {"answer": {"stops": stops, "leaves": leaves}})

    def _left(self, place: Place, now: float) -> None:
        """A rank has ended at a commit point, as it was asked to."""
        run = self.run
        self.joining.leave(place.host, f"a signal to {place.who}", now)
        if place.host in run.leaving and not run.stopping:
            run.abandon(place)  # the agent, too, or a pod would wait for its end
        if not run.live:
            self.ending.over(now)
        elif run.mode in (FORMING, REJOINING) and not run.stopping:
            self._restart(f"{place.who} has left", now)
        elif not run.stopping:
            self._cut_s = now + CUT_S
            self._regroup(now)

    def _failed(self, place: Place, status: int, text: str, now: float) -> None:
        """A member has failed."""
        run = self.run
        run.patience.failed(place, now)
        code = _code(place, status)
        early = status == FAILURE and run.directory is None
        if run.stopping or early or status == USER_ERROR or place.fatal is not None:
            self.ending.fail(now, place, place.why, code)
        elif run.mode == RUNNING and run.recovers and not run.trained:
            run.enter(RECOVERING, now)
            self._why, self._restart_s = [text], float("inf")
            for survivor in run.live:
                survivor.freshen(now)
                if survivor.stage == TRAINS:
                    run.tell(survivor, CUT)
            self._regroup(now)
        elif run.mode == RECOVERING and run.live:
            self._why.append(text)
            self._regroup(now)
        else:
            self._restart(text, now, code)

    def _regroup(self, now: float) -> None:
        """Give out the next world, if all members that live are at the door."""
        run = self.run
        if run.mode not in (RUNNING, RECOVERING) or not run.live:
            return
        if any(place.stage != WAITS for place in run.live):
            return
        joined = [] if run.stopping or run.trained else run.at_door
        world = [*run.live, *joined]
        if len(world) < run.terms.min_ranks and not run.stopping:
            if run.mode == RUNNING:
                run.enter(RECOVERING, now)
            return
        if self._why:
            ranks = "1 rank" if len(world) == 1 else f"{len(world)} ranks"
            run.say(f"{'; '.join(self._why)}: going on with {ranks}")
        self._size, self._joined, self._why = len(run.members), joined, []
        self._cut_s = float("inf")
        run.members = world
        run.number += 1
        for rank, place in enumerate(world):
            place.rank, place.stage = rank, STARTS
        run.enter(REJOINING, now)
        run.orders.append(Form(run.number, tuple(p.number for p in world), False, run.directory))

    def _restart(self, why: str, now: float, code: int = FAILURE) -> None:
        """Go on with a restart of all ranks."""
        if self.run.stopping:
            return  # what does not stop is killed
        self._why, self._joined = [], []
        self._cut_s = self._restart_s = float("inf")
        self._restarting.restart(why, code, now)

    # In time.

    def _end_stuck(self, now: float) -> None:
        """Kill a rank that keeps the others from going on, once it has told where it is."""
        run = self.run
        found = self._watching.stuck(now) if self._restart_s == float("inf") else None
        if found is None or (found[0] and found[0].kill_s < float("inf")):
            return
        place, why = found
        if run.mode == ENDING or run.stopping:
            run.do(run.busy, DUMP)
            self.ending.fail(now, None, why, STUCK)
        elif place is None:
            run.do(run.busy, DUMP)
            self._stuck, self._restart_s = why, now + DUMP_S
        elif place.state == STATE_STOPPED:
            place.why, place.kill_s = why, now
        else:
            run.do([place], DUMP)
            place.why, place.kill_s = why, now + DUMP_S

    def _hurry(self, now: float) -> None:
        """Do what was put off, and end what takes too long."""
        run = self.run
        for place in run.busy:
            if now >= place.kill_s:
                place.kill_s = now + FAIL_S  # again, if that has not helped
                run.do([place], KILL)
        if now > self._cut_s:
            self._cut_s = float("inf")
            for place in run.live:
                if place.stage == TRAINS:
                    run.tell(place, CUT)
        since_s = now - run.mode_s
        if now > self._restart_s:
            self._restart(self._stuck, now, STUCK)
        elif run.mode == RECOVERING and since_s > self._patience_s:
            why = [*self._why, f"the ranks did not go on within {self._patience_s:.0f} s"]
            self._restart("; ".join(why), now)
        elif run.mode == REJOINING and since_s > REJOIN_S:
            self._restart(f"the new world did not form within {REJOIN_S:.0f} s", now)
        self._restarting.tick(now)

    @property
    def _patience_s(self) -> float:
        all_wait = all(place.stage == WAITS for place in self.run.live)
        return REFILL_S if all_wait else DOOR_S


def _code(place: Place, status: int) -> int:
    """The exit code of the run, if it ends for what happened here."""
    if place.why is None:
        return status
    return FAILURE if "did not start" in place.why else STUCK
