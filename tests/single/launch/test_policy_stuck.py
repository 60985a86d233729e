"""What is decided when ranks are out of reach, or stuck."""

from launch import orders
from launch.line import DUMP, KILL
from tests.single.launch.policy_game import H, newcomers, without


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
