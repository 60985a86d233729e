"""Who may come into an elastic run, and which hosts leave it."""

from __future__ import annotations

from collections.abc import Mapping

from app.errors import STOPPED, USER_ERROR
from launch.ending import Ending
from launch.line import KILL, STOP
from launch.orders import Join
from launch.places import EMPTY, STARTS, WAITS, Place, Slot
from launch.report import reason
from launch.state import ENDING, RECOVERING, REJOINING, RESTARTING, RUNNING, Run
from launch.supervise import STOP_S

# A host that has left and is listed still, so long after, is a new one of the same name: a pod that
# was made anew before the list told that it was gone.
RETURN_S = 120.0


class Joining:
    """Starts newcomers where places are empty, and lets ranks go."""

    def __init__(self, run: Run, ending: Ending):
        self._run, self._ending = run, ending
        self._told = 0  # rank 0 knows of so many newcomers
        self._refused: set[str] = set()  # hosts of another number of slots
        self._absent: set[str] = set()  # hosts that have left the list
        self._return_s: dict[str, float] = {}  # host -> when it may be used again, if listed

    def formed(self) -> None:
        """A new world trains, whose rank 0 knows of no newcomer."""
        self._told = 0
        self.announce()

    def announce(self) -> None:
        """Let rank 0 know how many newcomers wait at the door."""
        run = self._run
        ready = 0 if run.trained or run.stopping else len(run.at_door)
        if run.mode == RUNNING and ready != self._told and run.live:
            self._told = ready
            run.tell(run.live[0], {"newcomers": ready})

    def refill(self, now: float) -> None:
        """Start a newcomer at every empty place, if one can join."""
        run = self._run
        if run.mode not in (RUNNING, RECOVERING, REJOINING) or run.trained or run.stopping:
            return
        if run.directory is None or not run.recovers:
            return
        room = run.terms.max_ranks - len(run.busy)
        empty = [place for place in run.places if place.stage == EMPTY and run.usable(place)]
        for place in [place for place in empty if place.retry_s <= now][: max(0, room)]:
            run.members = [member for member in run.members if member is not place]
            place.begin(STARTS, None, now)
            run.orders.append(Join(place.number, run.directory))

    def ready(self, place: Place, code: str) -> None:
        """A newcomer waits at the door. It must run the same program as the members."""
        run = self._run
        if place.stage != STARTS:
            return
        expected = next((member.code for member in run.live), code)
        if run.trained or run.stopping or code != expected:
            if code != expected:
                self._leave_out(place, "runs another version of the program")
            run.abandon(place)
            return
        place.stage, place.code = WAITS, code
        self.announce()

    def failed(self, place: Place, status: int, text: str, now: float) -> None:
        """The process of a newcomer has ended."""
        if status == USER_ERROR:
            self._leave_out(place, reason(status))
        elif status not in (0, STOPPED):
            self._run.patience.failed(place, now)
            wait_s = place.retry_s - now
            when = f"in {wait_s:.0f} s" if wait_s else "now"
            self._run.say(f"{text}: it is started again {when}")
        self.announce()

    def _leave_out(self, place: Place, why: str) -> None:
        if place.host not in self._run.left_out:
            self._run.say(f"warning: {place.who} {why}: its host is left out")
            self._run.left_out.add(place.host)

    def leave(self, host: str, by: str, now: float) -> None:
        """Let the ranks of a host end at the next commit point; all, if too few would be left."""
        run = self._run
        if host in run.leaving or run.stopping or run.mode == ENDING:
            return
        run.leaving[host] = now + STOP_S
        self._return_s[host] = now + RETURN_S
        left = run.places if run.mode == RESTARTING else run.live
        rest = [place for place in left if run.usable(place)]
        trains = run.mode in (RUNNING, RECOVERING)
        if len(rest) < run.terms.min_ranks or (trains and not run.recovers):
            self._ending.stop(by, now)
            return
        for place in run.busy:
            if place.host == host and place.is_newcomer:
                run.abandon(place)
            elif place.host == host:
                run.do([place], STOP)
        run.say(f"{host} leaves, after {by}" if by else f"{host} leaves")

    def hurry(self, now: float) -> None:
        """Kill what has not left in time."""
        for host, kill_s in self._run.leaving.items():
            if now > kill_s and not self._run.stopping:
                self._run.leaving[host] = float("inf")
                self._run.do([place for place in self._run.busy if place.host == host], KILL)

    def hosts(self, found: Mapping[str, int], now: float) -> None:
        """These hosts, with so many slots each, may be used now. Those that have ranks and are not
        among them leave."""
        run = self._run
        if run.mode in (ENDING, RESTARTING):
            return
        known = {place.host: place.slot.of for place in run.places}
        for host in known.keys() - found.keys() - self._absent:
            self._absent.add(host)
            self.leave(host, "", now)
        slots = next(iter(known.values()))
        for host, number in found.items():
            if number != slots and host not in known.keys() | self._refused:
                self._refused.add(host)
                run.say(f"warning: {host} has {number} slots, others {slots}: it is left out")
            elif number == slots and host not in known:
                places = range(len(run.places), len(run.places) + slots)
                run.places += [
                    Place(place, Slot(host, slot, slots), now) for slot, place in enumerate(places)
                ]
            elif host in self._absent or now > self._return_s.get(host, float("inf")):
                self._take_back(host)

    def _take_back(self, host: str) -> None:
        """A host that had left may be used again, once its ranks have ended."""
        if not any(place.host == host for place in self._run.busy):
            self._absent.discard(host)
            self._return_s.pop(host, None)
            self._run.leaving.pop(host, None)
