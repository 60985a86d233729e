"""What is decided when ranks fail, leave and join: events and a clock, and no process."""

import itertools
from collections.abc import Iterator

import pytest

from launch import orders
from launch.line import DUMP, KILL, STOP
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


@pytest.fixture
def three() -> Iterator[Game]:
    yield Game(["h0", "h1", "h2"]).trains()


CUT = {"cut": True}


def tells(game):
    return [(o.place, o.message) for o in game.take() if isinstance(o, orders.Tell)]


# Failures


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_survivors_of_a_death_are_cut_and_go_on_at_once_in_their_order(three, victim):
    rest = [place for place in range(3) if place != victim]
    three.end(victim)
    assert three.mode == "recovering"
    assert tells(three) == [(place, CUT) for place in rest]
    three.waits(rest[1])
    assert three.take() == []
    three.waits(rest[0])
    assert three.form() == orders.Form(1, tuple(rest), False, "R")
    assert [three.run.places[place].rank for place in rest] == [0, 1]
    killed = f"rank {victim} on h{victim} was killed by SIGKILL"
    assert three.said[-1].startswith(killed)
    assert three.said[-1].endswith("at step 10: going on with 2 ranks")
    three.member(rest[0], rest[1], world=0)
    assert three.mode == "rejoining"
    three.member(*rest)
    assert three.mode == "running" and orders.Formed() in three.take()


def test_two_deaths_at_once_leave_a_world_of_one(three):
    three.end(0)
    three.end(2, status=139)
    three.waits(1)
    assert three.form().places == (1,)
    assert "rank 0 on h0" in three.said[-1] and "SIGSEGV" in three.said[-1]


def test_a_survivor_that_was_at_the_door_already_is_not_cut(three):
    three.waits(1)
    three.end(0)
    assert tells(three) == [(2, CUT)]


def test_a_death_at_the_door_is_dropped(three):
    three.end(0)
    three.waits(1)
    three.end(1)
    three.waits(2)
    assert three.form().places == (2,)


def test_when_nobody_survives_all_start_again(three):
    three.end(0, 1, 2)
    form = three.form()
    assert form == orders.Form(0, (0, 1, 2), True, "R")
    assert three.said[-1].startswith("restarting all ranks after step 10 (1st time): rank 2")


def test_a_death_while_a_new_world_forms_starts_all_again_once_all_have_ended(three):
    three.end(0)
    three.waits(1, 2)
    three.member(1)
    three.take()
    three.end(2)
    assert three.told(KILL) == [1] and three.mode == "restarting"
    three.end(1)
    assert three.form() == orders.Form(0, (0, 1, 2), True, "R")


def test_a_death_in_the_first_start_starts_all_again_as_at_first():
    game = Game(["h0", "h1"])
    game.call()
    game.end(1)
    assert game.told(KILL) == [0]
    game.end(0)
    assert game.form() == orders.Form(0, (0, 1), True, None)


def test_members_that_do_not_recover_start_again():
    game = Game(["h0", "h1"])
    game.call()
    game.member(recovers=False)
    game.take()
    game.end(0)
    assert game.told(KILL) == [1]


def test_after_training_a_failure_starts_all_again(three):
    three.policy.said(0, {"trained": 10}, three.now)
    three.end(2)
    assert three.told(KILL) == [0, 1]


def test_a_rank_that_cannot_stay_in_a_forming_world_starts_all_again(three):
    three.end(0)
    three.waits(1, 2)
    three.take()
    three.waits(2)
    assert three.told(KILL) == [1, 2]


@pytest.mark.parametrize("status", [1, 2])
def test_a_mistake_before_anybody_trains_ends_the_run(status):
    game = Game(["h0", "h1"])
    game.call()
    game.take()
    game.end(1, status=status)
    assert game.mode == "ending" and game.ending.first.number == 1
    assert game.told(STOP) == [0]
    game.pass_(6)
    assert game.told(KILL) == [0] and not game.ending.done
    game.end(0)
    game.pass_(0.5)
    assert game.ending.done


def test_exit_2_and_what_is_fatal_end_the_run_and_exit_1_does_not(three):
    three.end(2, status=1)
    assert three.mode == "recovering"
    three.policy.said(0, {"fatal": "replicas differ"}, three.now)
    three.end(0, status=1)
    assert three.mode == "ending" and three.ending.first.number == 0


def test_exit_2_in_training_ends_the_run(three):
    three.end(2, status=2)
    assert three.mode == "ending"


def test_an_agent_that_never_came_ends_a_run_that_has_not_trained():
    game = Game(["h0", "h1"])
    game.call(0)
    game.policy.lost(1, None, 1.0)
    assert game.mode == "ending"
    game = Game(["h0", "h1"])
    game.call(0)
    game.pass_(91)
    assert game.ending.why == "rank 1 on h1 did not start within 90 s" and game.ending.code == 1


def test_restarts_that_bring_nothing_end_the_run(three):
    for again in range(4):
        assert three.mode == "running"
        three.end(0, 1, 2)
        if again < 3:
            three.member()
            three.step = 5
            three.pass_(0.5)
    assert three.mode == "ending" and three.ending.code == 137
    assert "3 restarts have not passed step 10" in three.ending.why
    assert "(3rd time)" in three.said[-1]


def test_restarts_that_get_further_go_on(three):
    for step in range(11, 20):
        three.end(0, 1, 2)
        three.member()
        three.step = step
        three.pass_(0.5)
    assert three.mode == "running" and "(9th time)" in three.said[-1]


# Out of reach, stuck


def test_an_agent_without_word_is_given_up(three):
    three.deaf = {1}
    three.pass_(H - 0.5)
    assert three.mode == "running"
    three.pass_(1)
    assert three.mode == "recovering" and orders.Abandon(1) in three.take()
    three.waits(0, 2)
    assert "rank 1 on h1: no word from its host for 4 s" in three.said[-1]


def test_a_gap_of_our_own_condemns_nobody(three):
    three.now += 60
    three.policy.tick(three.now)
    assert three.mode == "running"


def test_a_stuck_rank_tells_where_it_is_and_is_killed(three):
    late = {"step": 9, "phase": "callbacks", "waits": False, "wants_stop": False}
    three.phase[1] = {"reading": {**late, "age_s": 6.0, "limit_s": 5.0}}
    three.pass_(0.5)
    assert three.told(DUMP) == [1]
    three.pass_(1.5)
    assert three.told(KILL) == [1] and three.mode == "running"
    three.end(1)
    three.waits(0, 2)
    three.take()
    assert three.said[-1].startswith("rank 1 on h1: no progress for 6 s in callbacks")


def test_a_report_from_before_a_new_world_blames_nobody(three):
    late = {"waits": False, "wants_stop": False, "age_s": 6.0, "limit_s": 5.0, "step": 9}
    phases = {0: "step", 1: "callbacks", 2: "step"}
    three.phase = {n: {"reading": {**late, "phase": phase}} for n, phase in phases.items()}
    three.pass_(2)
    three.end(1, 2)
    three.waits(0)
    three.member()
    assert three.mode == "running"
    three.take()
    three.policy.tick(three.now)
    assert three.told(DUMP) == []


def test_those_that_waited_for_a_stuck_rank_are_not_stuck_when_it_is_gone(three):
    late = {"waits": False, "wants_stop": False, "age_s": 6.0, "limit_s": 5.0, "step": 9}
    phases = {0: "step", 1: "callbacks", 2: "step"}
    three.phase = {n: {"reading": {**late, "phase": phase}} for n, phase in phases.items()}
    three.pass_(2)
    three.end(1)
    three.pass_(2)  # reports of what they did before they were cut
    three.waits(0, 2)
    three.member()
    assert three.mode == "running"
    three.phase.clear()
    three.pass_(2)
    three.take()
    assert not any("restarting" in text for text in three.said)


def test_survivors_that_do_not_come_to_the_door_are_stuck_in_the_end(three):
    late = {"waits": False, "wants_stop": False, "limit_s": 5.0, "step": 9}
    three.end(1)
    three.phase = {0: {"reading": {**late, "phase": "callbacks", "age_s": 3.0}}}
    three.pass_(2)
    three.take()
    three.phase = {0: {"reading": {**late, "phase": "callbacks", "age_s": 9.0}}}
    three.pass_(2)
    assert three.told(DUMP) == []
    three.pass_(2)
    assert three.told(DUMP) == [0]


def test_a_newcomer_is_not_judged_by_the_rank_that_was_there_before(three):
    without(three, 1)
    three.pass_(0.5)
    assert newcomers(three) == [1]
    late = {"waits": False, "wants_stop": False, "age_s": 20.0, "limit_s": 5.0, "step": 9}
    three.phase[1] = {"reading": {**late, "phase": "agreement"}}
    three.pass_(0.5)
    assert three.told(DUMP) == []
    three.pass_(6)
    three.take()
    three.end(1)
    three.take()
    assert "newcomer 1 on h1: no progress" in three.said[-1]


def test_a_rank_that_goes_on_after_all_is_not_killed(three):
    late = {"step": 9, "phase": "callbacks", "waits": False, "wants_stop": False}
    three.phase[1] = {"reading": {**late, "age_s": 6.0, "limit_s": 5.0}}
    three.pass_(0.5)
    three.phase.clear()
    three.end(2)
    three.waits(0, 1)
    three.member()
    three.pass_(3)
    assert three.told(KILL) == [] and three.mode == "running"


def test_a_stopped_process_is_killed_after_a_heartbeat(three):
    three.phase[2] = {"state": "T"}
    three.pass_(H)
    assert three.take() == []
    three.pass_(2)
    assert three.told(KILL) == [2]


def test_if_nobody_is_to_blame_all_start_again(three):
    late = {"step": 9, "phase": "step", "waits": False, "wants_stop": False}
    three.phase = {n: {"reading": {**late, "age_s": 6.0, "limit_s": 5.0}} for n in range(3)}
    three.pass_(0.5)
    assert three.told(DUMP) == [0, 1, 2]
    three.pass_(1.5)
    assert three.told(KILL) == [0, 1, 2]
    three.take()
    assert "no rank has finished step 10" in three.said[-1]


# Joining


def newcomers(game):
    return [order.place for order in game.take() if isinstance(order, orders.Join)]


def without(game, victim):
    """The others go on without a rank."""
    game.end(victim)
    game.waits(*[place.number for place in game.run.live])
    game.member()
    game.take()


def test_a_newcomer_fills_the_place_and_comes_in_at_a_commit_point(three):
    without(three, 0)
    three.pass_(0.5)
    assert newcomers(three) == [0]
    three.waits(0)
    assert tells(three) == [(1, {"newcomers": 1})]
    three.waits(1)
    assert three.take() == []
    three.waits(2)
    assert three.form().places == (1, 2, 0)
    three.member()
    three.take()
    assert three.mode == "running"
    assert three.said[-1] == "2 -> 3 ranks at step 10: rank 2 on h0 has joined"


def test_a_newcomer_that_fails_is_started_again_later_and_later(three):
    without(three, 0)
    starts = []
    for _ in range(80):
        three.pass_(0.5)
        for place in newcomers(three):
            starts.append(three.now)
            three.end(place, status=1)
    waits = [round(b - a) for a, b in itertools.pairwise(starts)]
    assert waits == [2, 4, 8, 16] and three.mode == "running"
    assert tells(three) == []


def test_a_newcomer_of_another_program_is_dismissed_with_its_host(three):
    without(three, 0)
    three.pass_(0.5)
    three.take()
    three.waits(0, code="other")
    assert orders.Abandon(0) in three.take()
    assert three.said[-1].startswith("warning: newcomer 0 on h0 runs another version")
    three.pass_(60)
    assert newcomers(three) == []


def test_a_newcomers_mistake_leaves_its_host_out_and_no_more(three):
    without(three, 0)
    three.pass_(0.5)
    three.end(0, status=2)
    three.pass_(60)
    assert newcomers(three) == [0] and three.mode == "running"
    assert "its host is left out" in three.said[-1]


def test_newcomers_are_dismissed_when_training_is_over(three):
    without(three, 0)
    three.pass_(0.5)
    three.take()
    three.policy.said(1, {"trained": 20}, three.now)
    assert orders.Abandon(0) in three.take()
    three.end(1, 2, status=0)
    three.pass_(0.5)
    assert three.ending.done and three.ending.first is None


def test_too_few_survivors_wait_for_a_newcomer():
    game = Game(["h0", "h1"], min_ranks=2).trains()
    game.end(1)
    game.waits(0)
    game.take()
    game.pass_(1)
    assert game.mode == "recovering" and newcomers(game) == [1]
    game.waits(1)
    assert game.form().places == (0, 1)


def test_too_few_survivors_start_again_after_a_while():
    game = Game(["h0", "h1"], min_ranks=2).trains()
    game.end(1)
    game.waits(0)
    game.pass_(61)
    assert game.mode == "restarting" and "within 60 s" in game.said[-1]


def test_more_ranks_than_were_started_join_up_to_the_most():
    game = Game(["h0", "h1", "h2", "h3"], ranks=2, max_ranks=3)
    game.call(0, 1)
    game.member()
    game.pass_(0.5)
    assert newcomers(game) == [2]
    game.call(2)
    game.waits(2)
    game.waits(0, 1)
    assert game.form().places == (0, 1, 2)
    game.member()
    game.pass_(5)
    assert newcomers(game) == []


def test_hosts_come_and_go():
    game = Game(["h0", "h1"], max_ranks=3).trains()
    game.policy.joining.hosts({"h0": 1, "h1": 1, "h2": 1, "h3": 2}, game.now)
    game.pass_(0.5)
    assert newcomers(game) == [2]
    assert [text for text in game.said if "h3" in text] == [
        "warning: h3 has 2 slots, others 1: it is left out"
    ]
    game.call(2)
    game.waits(2)
    game.waits(0, 1)
    game.member()
    game.take()
    game.policy.joining.hosts({"h1": 1, "h2": 1}, game.now)
    assert game.told(STOP) == [0]
    game.end(0, status=75)
    game.waits(1, 2)
    assert game.form().places == (1, 2)
    game.member()
    game.pass_(5)
    assert newcomers(game) == []
    game.policy.joining.hosts({"h0": 1, "h1": 1, "h2": 1}, game.now)
    game.pass_(0.5)
    assert newcomers(game) == [0]


# Leaving and stopping


def asked(game, place):
    game.policy.reported(place, game.report(place) | {"asked": True}, game.now)


def test_a_host_leaves_at_a_commit_point_and_its_place_stays_empty():
    game = Game(["h0", "h1", "h2"]).trains()
    asked(game, 0)
    assert game.told(STOP) == [0]
    game.policy.said(0, {"asks": [0]}, game.now)
    assert tells(game) == [(0, {"answer": {"stops": False, "leaves": [0]}})]
    game.end(0, status=75)
    game.waits(1, 2)
    assert game.form().places == (1, 2)
    game.member()
    game.policy.joining.hosts({"h0": 1, "h1": 1, "h2": 1}, game.now)
    game.pass_(30)
    assert newcomers(game) == [] and game.mode == "running"
    assert "h0 leaves, after a signal to rank 0 on h0" in game.said
    game.pass_(100)
    game.policy.joining.hosts({"h0": 1, "h1": 1, "h2": 1}, game.now)  # a new pod of the same name
    game.pass_(0.5)
    assert newcomers(game) == [0]


def test_the_agent_of_a_rank_that_has_left_ends_with_it(three):
    asked(three, 2)
    three.take()
    three.end(2, status=75)
    assert orders.Abandon(2) in three.take()


def test_a_leaver_that_does_not_leave_is_killed(three):
    asked(three, 2)
    three.pass_(26)
    assert three.told(KILL) == [2]
    three.end(2)
    assert three.mode == "recovering"


def test_others_that_do_not_notice_who_has_left_are_cut(three):
    asked(three, 2)
    three.end(2, status=75)
    three.take()
    three.pass_(3)
    assert tells(three) == [(0, CUT), (1, CUT)]


def test_all_stop_if_too_few_would_be_left():
    game = Game(["h0", "h1"], min_ranks=2).trains()
    asked(game, 1)
    assert game.told(STOP) == [0, 1]
    game.policy.said(0, {"asks": [1]}, game.now)
    assert tells(game) == [(0, {"answer": {"stops": True, "leaves": [1]}})]
    game.end(0, 1, status=75)
    game.pass_(0.5)
    assert game.ending.done and game.ending.by == "a signal to rank 1 on h1"


def test_all_ranks_of_one_host_stop_together():
    game = Game(["localhost"] * 2).trains()
    asked(game, 1)
    assert game.told(STOP) == [0, 1] and game.ending.by == "a signal to rank 1"


def test_a_signal_stops_all_and_a_second_one_kills(three):
    without(three, 2)
    three.pass_(0.5)
    three.policy.signalled("SIGTERM", three.now)
    found = three.take()
    assert [o.place for o in found if isinstance(o, orders.Do) and o.order == STOP] == [0, 1]
    assert orders.Abandon(2) in found
    three.policy.said(0, {"asks": [0, 1]}, three.now)
    assert tells(three) == [(0, {"answer": {"stops": True, "leaves": []}})]
    three.policy.signalled("SIGTERM", three.now)
    assert three.told(KILL) == [0, 1]
    three.end(0, 1)
    three.pass_(0.5)
    assert three.ending.done


def test_ranks_that_do_not_stop_are_killed_in_the_end(three):
    three.policy.signalled("SIGINT", three.now)
    three.pass_(26)
    assert three.told(KILL) == [0, 1, 2]
    three.pass_(11)
    assert three.ending.done


def test_a_failure_while_all_stop_is_not_recovered_from(three):
    three.policy.signalled("SIGTERM", three.now)
    three.end(1)
    assert three.mode == "ending" and three.ending.first.number == 1


def test_a_run_that_is_over_is_not_taken_up_again(three):
    three.end(1, status=0)
    three.end(0, status=137)
    assert three.mode == "ending" and three.ending.first.number == 0


def test_messages_of_an_ended_rank_and_of_an_older_world_count_for_nothing(three):
    three.end(2)
    three.waits(2)
    three.member(2)
    three.waits(0, 1)
    assert three.form().places == (0, 1)
    three.end(2)
    assert three.mode == "rejoining"


def test_an_agent_that_comes_after_the_signal_is_told_to_stop():
    game = Game(["h0", "h1"])
    game.call(0)
    game.policy.signalled("SIGTERM", 0.0)
    game.call(1)
    assert game.told(STOP) == [0, 1]
    game.end(0, 1, status=75)
    game.pass_(0.5)
    assert game.ending.done and {place.status for place in game.run.members} == {75}


def test_an_agent_that_was_given_up_before_it_came_is_sent_away(three):
    three.policy.lost(2, None, three.now)
    three.take()
    three.call(2)
    assert orders.Abandon(2) in three.take()


def test_a_host_that_leaves_during_a_restart_is_not_started_again(three):
    three.end(0)
    three.waits(1, 2)
    three.end(2)
    assert three.mode == "restarting"
    asked(three, 0)
    three.end(1)
    assert three.form().places == (1, 2)
