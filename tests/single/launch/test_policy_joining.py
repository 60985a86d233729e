"""What is decided when ranks and hosts come."""

import itertools

from launch import orders
from launch.line import STOP
from tests.single.launch.policy_game import Game, newcomers, tells, without


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
