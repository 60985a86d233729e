"""What is decided when ranks fail: events and a clock, and no process."""

import pytest

from launch import orders
from launch.line import KILL, STOP
from tests.single.launch.policy_game import CUT, Game, tells


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
