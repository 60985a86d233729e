"""A run whose ranks and agents do what a test says, for tests of the policy."""

from launch import orders
from launch.places import Slot
from launch.policy import Policy
from launch.state import Terms

H = 3.0  # the heartbeat


class Game:
    """A run whose ranks and agents do what a test says. Places are told by number."""

    def __init__(self, hosts, ranks=None, **terms):
        slots = [Slot(host, 0, 1) for host in hosts]
        if len(set(hosts)) == 1:
            slots = [Slot(host, n, len(hosts)) for n, host in enumerate(hosts)]
        ranks = ranks or len(hosts)
        self.now, self.step = 0.0, 0
        terms = {"max_ranks": ranks, "heartbeat_s": H, **terms}
        self.policy = Policy(slots, Terms(ranks, **terms), 0.0)
        self.run = self.policy.run
        self._said: list[str] = []
        self.deaf: set[int] = set()  # their agents do not report
        self.phase = {}
        self.policy.begin(0.0)

    @property
    def mode(self):
        return self.run.mode

    @property
    def ending(self):
        return self.policy.ending

    @property
    def said(self):
        """All that the user was told."""
        texts = [order.text for order in self.run.orders if isinstance(order, orders.Say)]
        return [*self._said, *texts]

    def take(self):
        """The orders since the last call; what is said goes to `said`."""
        found, self.run.orders = self.run.orders, []
        self._said += [order.text for order in found if isinstance(order, orders.Say)]
        return [order for order in found if not isinstance(order, orders.Say)]

    def form(self):
        """The newest world that was given out."""
        return [order for order in self.take() if isinstance(order, orders.Form)][-1]

    def told(self, order):
        """The places that were given this order."""
        return [o.place for o in self.take() if isinstance(o, orders.Do) and o.order == order]

    def call(self, *places):
        for place in places or range(len(self.run.places)):
            self.policy.called(place, self.now)

    def member(self, *places, world=None, recovers=True, code="c"):
        world = self.run.number if world is None else world
        for place in places or [p.number for p in self.run.members]:
            about = {"world": world, "run": "R", "recovers": recovers, "code": code}
            self.policy.said(place, {"member": about}, self.now)

    def waits(self, *places, code="c"):
        for place in places:
            self.policy.said(place, {"waits": {"step": 1, "code": code}}, self.now)

    def end(self, *places, status=137):
        for place in places:
            self.policy.ended(place, status, self.now)

    def pass_(self, seconds):
        """Time goes by, and agents report."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.5)
            for place in self.run.places:
                if place.has_agent and place.number not in self.deaf:
                    self.policy.reported(place.number, self.report(place.number), self.now)
            self.policy.tick(self.now)

    def report(self, place):
        reading = [self.step, "step", False, False, 0.1, 5.0]
        names = ("step", "phase", "waits", "wants_stop", "age_s", "limit_s")
        return {"reading": dict(zip(names, reading, strict=True)), "state": "S"} | self.phase.get(
            place, {}
        )

    def trains(self, step=10):
        """All have started, and train."""
        self.call()
        self.member()
        self.step = step
        self.pass_(10)
        assert self.mode == "running"
        self.take()
        return self


CUT = {"cut": True}


def tells(game):
    return [(o.place, o.message) for o in game.take() if isinstance(o, orders.Tell)]


def newcomers(game):
    return [order.place for order in game.take() if isinstance(order, orders.Join)]


def without(game, victim):
    """The others go on without a rank."""
    game.end(victim)
    game.waits(*[place.number for place in game.run.live])
    game.member()
    game.take()


def asked(game, place):
    game.policy.reported(place, game.report(place) | {"asked": True}, game.now)
