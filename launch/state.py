"""The state of an elastic run, as its supervisor knows it, and the orders it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from launch.line import LEAVE
from launch.orders import Abandon, Do, Order, Say, Tell
from launch.places import EMPTY, WAITS, Patience, Place, Slot

# All ranks start; train; survivors come to the door; a new world was given out; all ranks are
# ended, to be started again; the run is over.
FORMING, RUNNING, RECOVERING, REJOINING = "forming", "running", "recovering", "rejoining"
RESTARTING, ENDING = "restarting", "ending"


class Terms(NamedTuple):
    """What the user wants. `ranks`: at the start."""

    ranks: int
    max_ranks: int
    min_ranks: int = 1
    heartbeat_s: float = 30.0


class Run:
    """All places, and the ranks of the present world among them."""

    def __init__(self, slots: Sequence[Slot], terms: Terms, now: float):
        self.terms = terms
        self.places = [Place(number, slot, now) for number, slot in enumerate(slots)]
        self.members: list[Place] = []  # in the order of ranks
        self.patience = Patience()
        self.mode, self.mode_s = FORMING, now
        self.number = 0  # of the present world
        self.directory: str | None = None  # of the run; None: nobody has trained
        self.best_step = 0
        self.trained = self.stopping = False
        self.leaving: dict[str, float] = {}  # host -> when what is left there is killed
        self.left_out: set[str] = set()  # hosts
        self.orders: list[Order] = []

    def enter(self, mode: str, now: float) -> None:
        """Another mode begins."""
        self.mode, self.mode_s = mode, now

    @property
    def live(self) -> list[Place]:
        """The members whose processes have not ended."""
        return [place for place in self.members if place.stage != EMPTY]

    @property
    def busy(self) -> list[Place]:
        """The places with a process."""
        return [place for place in self.places if place.stage != EMPTY]

    @property
    def at_door(self) -> list[Place]:
        """The newcomers that are ready, as many as may come in."""
        ready = [place for place in self.places if place.is_newcomer and place.stage == WAITS]
        return ready[: max(0, self.terms.max_ranks - len(self.live))]

    @property
    def recovers(self) -> bool:
        """Whether the members can go on in a new world without a restart."""
        return bool(self.live) and all(place.recovers for place in self.live)

    def usable(self, place: Place) -> bool:
        """Whether a rank may be started there."""
        return place.host not in self.leaving and place.host not in self.left_out

    def tell(self, place: Place, message: dict[str, Any]) -> None:
        """Tell a rank."""
        self.orders.append(Tell(place.number, message))

    def do(self, places: Sequence[Place], order: str) -> None:
        """Send an order to the agents of these places."""
        self.orders += [Do(place.number, order) for place in places if place.has_agent]

    def say(self, text: str) -> None:
        """Tell the user."""
        self.orders.append(Say(text))

    def abandon(self, place: Place) -> None:
        """End the agent of a place with its rank, and forget both."""
        self.do([place], LEAVE)
        self.orders.append(Abandon(place.number))
        place.stage, place.has_agent = EMPTY, False

    def dismiss_newcomers(self) -> None:
        """Nobody joins any more."""
        for place in self.places:
            if place.is_newcomer:
                self.abandon(place)
