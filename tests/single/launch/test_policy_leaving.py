"""What is decided when hosts leave and when all stop."""

from launch import orders
from launch.line import KILL, STOP
from tests.single.launch.policy_game import CUT, Game, asked, newcomers, tells, without


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
