"""Which rank of an elastic run is out of reach or stuck: applies watch.py to its places."""

from __future__ import annotations

from launch.places import STARTS, WAITS, Place
from launch.state import Run
from launch.supervise import ASLEEP_S, START_S
from launch.watch import blame, who


class Watching:
    """Looks at all places. Call `awake` first."""

    def __init__(self, run: Run, now: float):
        self._run = run
        self._looked_s = now

    def awake(self, now: float) -> None:
        """After a gap we were stopped ourselves, and know nothing of the ranks."""
        if now - self._looked_s > min(ASLEEP_S, self._run.terms.heartbeat_s / 2):
            for place in self._run.places:
                place.heard_s = now
        self._looked_s = now

    def silent(self, now: float) -> list[tuple[Place, str]]:
        """The places whose agents are out of reach, and how that is told."""
        found = []
        for place in self._run.busy:
            silent_s = now - place.heard_s
            if place.has_agent and silent_s > self._run.terms.heartbeat_s:
                found.append((place, f"{place.who}: no word from its host for {silent_s:.0f} s"))
            elif not place.has_agent and now - place.started_s > START_S:
                found.append((place, f"{place.who} did not start within {START_S:.0f} s"))
        return found

    def stuck(self, now: float) -> tuple[Place | None, str] | None:
        """The rank that does not go on, or keeps others from it, and why; None: all is well."""
        for place in self._run.busy:
            if place.stopped_s is not None and now - place.stopped_s > self._run.terms.heartbeat_s:
                return place, f"{place.who}: its process is stopped"
        world = [place for place in self._run.live if place.stage != WAITS]
        alone = [[p] for p in self._run.busy if p.is_newcomer and p.stage == STARTS]
        for group in [world, *alone]:
            seen = {place.seen(now): place for place in group if place.has_agent}
            found = blame(list(seen))
            if found and found.seen:
                place = seen[found.seen]
                return place, found.why.replace(who(found.seen), place.who, 1)
            if found:
                return None, found.why
        return None
