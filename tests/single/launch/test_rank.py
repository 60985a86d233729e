"""The agent of a rank, with small programs in place of the application."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.elastic.line import Line
from launch.line import DUMP, KILL, LEAVE, PING, START, STOP, TELL, call, greeting
from tests.processes import has_ended

ROOT = Path(__file__).resolve().parents[3]
# Runs an agent whose application is the program in its last argument.
AGENT = """
import json, os, sys
from launch.line import call
from launch.rank import Agent
door = json.loads(os.environ.pop("LOCKSTEP_DOOR", "null"))
sys.exit(Agent([sys.executable, "-c", sys.argv[2]], "/", call(sys.argv[1], 0), door).run())
"""
STOPPABLE = """
import faulthandler, signal, sys, time
from app.pulse import PULSE
def stop(*_):
    PULSE.ask_to_stop()
    time.sleep(1.5)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
faulthandler.register(signal.SIGUSR1)
PULSE.step = 7
PULSE.enter("validation")
time.sleep(100)
"""
# Says what it hears through its door, and ends as it is told.
AT_THE_DOOR = """
import json, os, socket
from app.elastic.line import Line
place = json.loads(os.environ["LOCKSTEP_DOOR"])
door = Line(socket.socket(fileno=place["fd"]))
door.send({"here": place["run"], "rank": os.environ.get("HOROVOD_RANK")})
for message in door.messages():
    door.send({"heard": message})
    if "end" in message:
        os._exit(message["end"])
"""


@pytest.fixture
def agent():
    """Starts an agent; gives its process and our end of the line."""
    started = []

    def start(program, **environ):
        server = socket.create_server(("127.0.0.1", 0))
        where = f"127.0.0.1:{server.getsockname()[1]}:secret"
        process = subprocess.Popen(
            [sys.executable, "-c", AGENT, where, program],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        )
        server.settimeout(60)
        line = Line(server.accept()[0])
        server.close()
        started.append((process, line))
        return process, line, line.messages()

    yield start
    for process, line in started:
        process.kill()
        process.communicate()
        line.close()


def first(messages, wanted):
    return next(message for message in messages if wanted(message))


def in_validation(message):
    return message.get("reading", {}).get("phase") == "validation"


def test_an_agent_tells_what_its_rank_does_and_how_it_ended(agent):
    process, line, messages = agent(STOPPABLE)
    assert greeting(next(messages), "secret", 1) == 0
    said = first(messages, in_validation)
    assert said["reading"]["step"] == 7 and said["state"] == "S" and said["asked"] is False
    line.send({"do": STOP})
    line.send({"do": STOP})  # would end it with 143, if it were passed on
    assert first(messages, lambda message: message.get("asked"))["reading"]["wants_stop"]
    assert first(messages, lambda message: "ended" in message) == {"ended": 75}
    assert process.wait(30) == 75


def test_a_signal_to_the_agent_reaches_the_rank_once_and_the_launcher(agent):
    process, _, messages = agent(STOPPABLE)
    first(messages, in_validation)
    process.send_signal(signal.SIGTERM)
    assert first(messages, lambda message: message.get("asked"))
    process.send_signal(signal.SIGTERM)
    assert first(messages, lambda message: "ended" in message) == {"ended": 75}


def test_a_stopped_rank_is_seen_and_shows_its_frames(agent):
    process, line, messages = agent(STOPPABLE + "# the end")
    first(messages, in_validation)
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    os.kill(child, signal.SIGSTOP)
    first(messages, lambda message: message.get("state") == "T")
    line.send({"do": DUMP})
    first(messages, lambda message: message.get("state") == "S")
    line.send({"do": KILL})
    assert first(messages, lambda message: "ended" in message) == {"ended": 137}
    assert b"most recent call first" in process.communicate(timeout=30)[1]


def test_a_rank_stops_when_the_launcher_is_gone(agent):
    process, line, messages = agent(STOPPABLE)
    first(messages, in_validation)
    line.close()
    assert process.wait(60) == 75


def door(run=None, fence_s=60.0):
    return json.dumps({"place": 0, "fence_s": fence_s, "run": run})


def said(messages):
    return first(messages, lambda message: "said" in message)["said"]


def test_an_agent_carries_messages_and_starts_its_rank_again(agent):
    process, line, messages = agent(AT_THE_DOOR, LOCKSTEP_DOOR=door())
    assert said(messages) == {"here": None, "rank": None}
    line.send({"do": PING})
    assert said(messages) == {"heard": {"ping": True}}
    line.send({"do": TELL, "message": {"end": 5}})
    assert said(messages) == {"heard": {"end": 5}}
    assert first(messages, lambda message: "ended" in message) == {"ended": 5}
    line.send({"do": START, "environ": {"HOROVOD_RANK": "3", "LOCKSTEP_DOOR": door("R")}})
    assert said(messages) == {"here": "R", "rank": "3"}
    line.send({"do": START, "environ": {}})  # it runs already
    line.send({"do": LEAVE})
    process.wait(30)


def test_an_agent_without_a_word_ends_its_rank(agent):
    process, line, _ = agent("import time; time.sleep(99)", LOCKSTEP_DOOR=door(fence_s=1.5))
    for _ in range(8):
        line.send({"do": PING})
        time.sleep(0.5)
    assert process.poll() is None
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    started_s = time.monotonic()
    process.wait(10)
    assert time.monotonic() - started_s < 4
    assert has_ended(child)


def test_a_rank_that_does_not_listen_does_not_keep_its_agent(agent):
    _, line, messages = agent("import time; time.sleep(99)", LOCKSTEP_DOOR=door())
    for _ in range(2000):
        line.send({"do": PING})
    line.send({"do": KILL})
    assert first(messages, lambda message: "ended" in message) == {"ended": 137}


def test_only_our_agents_are_greeted():
    assert greeting({"token": "t", "rank": 1}, "t", 2) == 1
    for wrong in (
        {"token": "x", "rank": 1},
        {"rank": 1},
        {"token": "t", "rank": 2},
        {"token": "t"},
    ):
        assert greeting(wrong, "t", 2) is None


def test_a_line_ends_at_what_is_no_message():
    server = socket.create_server(("127.0.0.1", 0))
    line = call(f"127.0.0.1:{server.getsockname()[1]}:t", 0)
    other = server.accept()[0]
    other.sendall(json.dumps({"do": "stop"}).encode() + b"\n[1]\n" + b'{"do": "kill"}\n')
    said = []
    thread = threading.Thread(target=lambda: said.extend(line.messages()))
    thread.start()
    thread.join(30)
    assert said == [{"do": "stop"}]
    for end in (other, server):
        end.close()
    line.close()
