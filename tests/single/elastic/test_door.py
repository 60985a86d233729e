"""A rank's line to its agent: what it says, what it is told, how it ends if it is left alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.elastic import door as doors
from app.elastic.door import DOOR_VARIABLE, FENCED, Door
from app.stop import STOP, Stopped
from tests.integration.launching import ROOT
from tests.single.elastic.agents import Agent

WORLD = {"number": 3, "variables": {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"}}


@pytest.fixture
def agent(monkeypatch) -> Agent:
    return Agent(monkeypatch)


def test_a_door_without_an_agent_does_nothing(monkeypatch) -> None:
    monkeypatch.delenv(DOOR_VARIABLE, raising=False)
    door = Door()
    door.open()
    door.say("member", {})
    assert not door.is_open and not door.grows and not door.is_outside
    assert door.run is None and door.place is None and door.newcomers == 0


def test_what_the_agent_has_given_is_read_once_and_not_left_to_children(monkeypatch) -> None:
    door = Agent(monkeypatch, run="runs/7", joins=True, grows=True, slot=1, slots=4).door
    assert door.is_open and door.joins and door.grows
    assert door.run == Path("runs/7") and door.place == (1, 4)
    assert DOOR_VARIABLE not in os.environ


def test_messages_go_out_in_order(agent: Agent) -> None:
    agent.door.say("waits", {"step": 7})
    agent.door.say("trained", 9)
    assert agent.hears() == {"waits": {"step": 7}}
    assert agent.hears() == {"trained": 9}


def test_the_next_world_is_that_of_the_supervisor_and_has_no_newcomers_yet(agent: Agent) -> None:
    agent.door.newcomers = 2
    agent.tells({"ping": True})
    agent.tells({"world": WORLD})
    assert agent.door.next_world() == WORLD["variables"]
    assert agent.door.world == 3 and agent.door.newcomers == 0


def test_a_rank_that_is_asked_to_stop_waits_for_no_world(agent: Agent, monkeypatch) -> None:
    monkeypatch.setattr(STOP, "signal", signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped by SIGTERM while it waited for other ranks"):
        agent.door.next_world()


def test_a_world_that_is_there_comes_before_a_wish_to_stop(agent: Agent, monkeypatch) -> None:
    agent.tells({"world": WORLD})
    agent.tells({"newcomers": 1})
    _until(lambda: agent.door.newcomers == 1)
    monkeypatch.setattr(STOP, "signal", signal.SIGTERM)
    assert agent.door.next_world() == WORLD["variables"]


def test_a_newcomer_is_outside_until_it_has_a_world(monkeypatch) -> None:
    agent = Agent(monkeypatch, joins=True)
    assert agent.door.is_outside
    agent.tells({"world": WORLD})
    agent.door.next_world()
    assert not agent.door.is_outside and agent.door.joins


def test_the_chief_hears_of_newcomers_and_that_they_are_gone(agent: Agent) -> None:
    agent.tells({"newcomers": 2})
    _until(lambda: agent.door.newcomers == 2)
    agent.tells({"newcomers": 0})
    _until(lambda: agent.door.newcomers == 0)


def test_who_leaves_is_what_the_supervisor_answers(agent: Agent) -> None:
    for answer in ({"stops": False, "leaves": [1, 2]}, {"stops": True, "leaves": []}):
        agent.tells({"answer": {"stops": True, "leaves": [9]}})  # too late for another question
        agent.tells({"newcomers": 1})
        _until(lambda: agent.door.newcomers == 1)
        agent.door.newcomers = 0
        reply = threading.Thread(target=_answers, args=(agent, answer))
        reply.start()
        assert agent.door.ask([1]) == (answer["stops"], answer["leaves"])
        reply.join()


def test_all_stop_if_the_supervisor_does_not_answer(agent: Agent, monkeypatch) -> None:
    monkeypatch.setattr(doors, "ANSWER_S", 0.05)
    assert agent.door.ask([0]) == (True, [])
    assert agent.hears() == {"asks": [0]}


def test_sockets_are_cut_when_the_supervisor_says_so(agent: Agent, monkeypatch) -> None:
    was_cut = threading.Event()
    monkeypatch.setattr(doors.SOCKETS, "cut", was_cut.set)
    agent.tells({"cut": True})
    assert was_cut.wait(60)


LEFT_ALONE = """
import threading
from app.elastic.door import DOOR
DOOR.open()
print("open", flush=True)
threading.Event().wait()
"""


def test_a_rank_ends_when_its_agent_is_gone() -> None:
    rank, ours = _rank(fence_s=600)
    assert rank.poll() is None
    ours.close()
    assert rank.wait(60) == FENCED


def test_a_rank_that_nobody_speaks_to_ends() -> None:
    rank, ours = _rank(fence_s=1)
    assert rank.wait(60) == FENCED
    assert ours.recv(100) == b""


class Clock:
    """Time that passes in sleep only. `stopped_s`: the process is stopped for so long in the first
    one."""

    def __init__(self, stopped_s: float):
        self.now, self._stopped_s = 100.0, stopped_s

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self._stopped_s
        self._stopped_s = 0.0


@pytest.mark.parametrize(("stopped_s", "ends_s"), [(0, 100 + 10), (50, 100 + 51 + 10)])
def test_a_rank_that_was_stopped_itself_waits_anew_for_a_word(
    monkeypatch, stopped_s: float, ends_s: float
) -> None:
    clock = Clock(stopped_s)
    monkeypatch.setattr(doors, "time", clock)
    monkeypatch.setattr(doors.os, "_exit", sys.exit)
    with pytest.raises(SystemExit, match=str(FENCED)):
        Door()._fence(10.0)
    assert ends_s < clock.now <= ends_s + 2


def _rank(fence_s: float) -> tuple[subprocess.Popen, socket.socket]:
    ours, theirs = socket.socketpair()
    told = {"fd": theirs.fileno(), "fence_s": fence_s, "run": None, "joins": False}
    told |= {"grows": True, "slot": 0, "slots": 1}
    rank = subprocess.Popen(
        [sys.executable, "-c", LEFT_ALONE],
        cwd=ROOT,
        env={**os.environ, DOOR_VARIABLE: json.dumps(told)},
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
    )
    theirs.close()
    assert rank.stdout is not None and rank.stdout.readline() == b"open\n"
    return rank, ours


def _answers(agent: Agent, answer: dict) -> None:
    assert agent.hears() == {"asks": [1]}
    agent.tells({"answer": answer})


def _until(holds) -> None:
    """What another thread does is done."""
    for _ in range(6000):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it has not come to that")
