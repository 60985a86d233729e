"""What becomes of a launch when one of its tasks fails, leaves or hangs: with agents that say what
the test wants, and no process."""

import signal
import time

import pytest

from app.doctor.hosts import Host
from app.errors import FAILURE, STOPPED, STUCK, USER_ERROR
from launch.cluster import configs, deal
from launch.commands import Placement
from launch.line import DUMP, KILL, START, STOP
from launch.tasks import ENDING, RESTARTING, RUNNING, Tasks

KILLED = 128 + signal.SIGKILL
COORDINATOR, FIRST, SECOND, SERVER = range(4)
READING = {"step": 7, "phase": "step", "waits": False, "wants_stop": False, "age_s": 0.0}
READING |= {"limit_s": 120.0}


class Agent:
    """The line to one; keeps what it is told."""

    def __init__(self):
        self.told = []

    def send(self, message):
        self.told.append(message["do"])
        return True

    def close(self):
        pass


class Stub(Tasks):
    """Starts nothing."""

    def __init__(self):
        hosts = [Host("localhost", 2)]
        slots = deal(2, 1, hosts)
        config = configs(slots, {"localhost": "127.0.0.1"}, range(7000, 7004))
        told = [{"TF_CONFIG": one} for one in config]
        self.started = []
        super().__init__(Placement(hosts), slots, {}, told, 30.0)
        self.said = []
        self.report.tell = self.said.append

    def start(self, number, command, environ, given=b""):
        self.started.append(number)


@pytest.fixture
def tasks(monkeypatch):
    monkeypatch.setattr("launch.tasks.DUMP_S", 0)
    with_handlers = {one: signal.getsignal(one) for one in (2, 15, 1)}
    made = Stub()
    made._start_all(0.0)
    assert made.started == [SERVER, SECOND, FIRST, COORDINATOR]
    made.agents = [Agent() for _ in range(4)]
    for number, agent in enumerate(made.agents):
        made._take(number, agent, {})
    made._take(COORDINATOR, made.agents[0], {"said": {"member": {"run": "/nowhere/run"}}})
    made._take(COORDINATOR, made.agents[0], {"reading": READING, "state": "S", "asked": False})
    yield made
    made._server.close()
    for number, handler in with_handlers.items():
        signal.signal(number, handler)


def ends(tasks, number, status):
    tasks._take(number, tasks.agents[number], {"ended": status})


def look(tasks):
    tasks._look(time.monotonic())


def test_a_worker_that_was_killed_is_started_again_the_second_time_later(tasks):
    ends(tasks, SECOND, KILLED)
    look(tasks)
    assert tasks.agents[SECOND].told == [START]
    ends(tasks, SECOND, KILLED)
    look(tasks)
    assert tasks.agents[SECOND].told == [START]
    assert "worker 1 was killed by SIGKILL" in tasks.said[0]
    assert tasks.said[0].endswith(": it is started again now")
    assert tasks.said[1].endswith(": it is started again in 2 s")
    assert tasks._mode == RUNNING


def test_a_worker_that_was_asked_to_leaves_and_with_the_last_one_all_stop(tasks):
    ends(tasks, FIRST, STOPPED)
    look(tasks)
    assert tasks.agents[FIRST].told == [] and tasks.agents[COORDINATOR].told == []
    ends(tasks, SECOND, STOPPED)
    assert tasks.agents[COORDINATOR].told == [STOP]
    ends(tasks, COORDINATOR, STOPPED)
    assert tasks._mode == ENDING and tasks._judge() == STOPPED


def test_a_mistake_of_the_user_ends_all(tasks):
    ends(tasks, FIRST, USER_ERROR)
    assert tasks._mode == ENDING and tasks._judge() == USER_ERROR


def test_a_lost_server_restarts_all_from_the_newest_commit(tasks):
    ends(tasks, SERVER, KILLED)
    assert tasks._mode == RESTARTING
    assert tasks.said[-1].startswith("restarting all after step 7 (1st time): server 0 was killed")
    assert [agent.told for agent in tasks.agents] == [[KILL], [KILL], [KILL], []]
    for number in (COORDINATOR, FIRST, SECOND):
        ends(tasks, number, KILLED)
    look(tasks)
    assert tasks._mode == RUNNING and all(agent.told[-1] == START for agent in tasks.agents)


def test_when_the_coordinator_fails_a_server_may_be_the_reason(tasks):
    ends(tasks, COORDINATOR, FAILURE)
    assert tasks._mode == RUNNING
    ends(tasks, SERVER, KILLED)
    assert "server 0 was killed" in tasks.said[-1] and tasks._mode == RESTARTING


def test_restarts_that_get_no_further_end_the_run(tasks):
    for _ in range(4):
        ends(tasks, SERVER, KILLED)
        for number in (COORDINATOR, FIRST, SECOND):
            ends(tasks, number, KILLED)
        look(tasks)
    assert tasks._mode == ENDING and tasks._judge() == FAILURE
    assert "3 restarts have not passed step 7" in tasks._why


def test_before_it_trains_a_failure_ends_the_run(tasks):
    tasks._directory = None
    ends(tasks, FIRST, FAILURE)
    assert tasks._mode == ENDING and tasks._judge() == FAILURE


def test_a_worker_that_hangs_is_killed_once_it_has_told_where_it_is(tasks):
    late = READING | {"age_s": 500.0}
    tasks._take(FIRST, tasks.agents[FIRST], {"reading": late, "state": "S", "asked": False})
    look(tasks)
    assert tasks.agents[FIRST].told == [DUMP, KILL]
    ends(tasks, FIRST, KILLED)
    assert tasks.said[-1].startswith("worker 0: no progress for 500 s in step (step 7): it is")


def test_a_coordinator_that_hangs_ends_the_run(tasks):
    late = READING | {"age_s": 500.0}
    tasks._take(COORDINATOR, tasks.agents[0], {"reading": late, "state": "S", "asked": False})
    look(tasks)
    assert tasks._mode == ENDING and tasks._judge() == STUCK
    assert tasks._why.startswith("coordinator: no progress for 500 s in step")


@pytest.mark.parametrize("number", [COORDINATOR, SERVER])
def test_a_signal_to_what_the_run_needs_stops_all_in_order(tasks, number):
    said = {"reading": READING, "state": "S", "asked": True}
    tasks._take(number, tasks.agents[number], said)
    look(tasks)
    assert STOP in tasks.agents[COORDINATOR].told
    ends(tasks, COORDINATOR, STOPPED)
    assert tasks._mode == ENDING and tasks._judge() == STOPPED


def test_the_second_signal_waits_for_nobody(tasks):
    tasks._signals += [signal.SIGINT]
    look(tasks)
    tasks._signals += [signal.SIGINT]
    look(tasks)
    assert tasks.agents[COORDINATOR].told == [STOP, KILL]
    ends(tasks, COORDINATOR, KILLED)
    assert tasks._mode == ENDING and tasks._judge() == 128 + signal.SIGINT


def test_the_end_of_the_coordinator_is_the_end(tasks):
    ends(tasks, COORDINATOR, 0)
    assert tasks._mode == ENDING and tasks._judge() == 0
