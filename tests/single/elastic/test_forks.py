"""Ranks that are forked from a process which has imported what they need."""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.elastic.door import DOOR_VARIABLE
from launch.forks import Forked, Forks
from tests.processes import has_ended

# What is imported is light here; a child tells what it has become, and waits.
PROGRAM = """
import json, os, signal, sys, time
from app.elastic import forks
forks.IMPORTS = ("json", "numpy", {more!r})
forks.serve()
from app.pulse import PULSE
import numpy
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
PULSE.enter("told")
door = json.loads(os.environ.pop("LOCKSTEP_DOOR"))
said = {{"pid": os.getpid(), "session": os.getsid(0), "rank": os.environ.get("HOROVOD_RANK"),
        "server": os.environ.get("ONLY_OF_THE_SERVER"), "drawn": float(numpy.random.rand())}}
os.write(door["fd"], json.dumps(said).encode())
time.sleep(60)
"""
THREAD = "tests.single.elastic.starts_a_thread"


@contextlib.contextmanager
def server(more: str = "json") -> Iterator[Forks]:
    os.environ["ONLY_OF_THE_SERVER"] = "yes"
    command = [sys.executable, "-c", PROGRAM.format(more=more)]
    forks = Forks(command, str(Path(__file__).resolve().parents[3]), stopped_s=0.5)
    del os.environ["ONLY_OF_THE_SERVER"]
    try:
        yield forks
    finally:
        forks.end()


def fork(forks: Forks, rank: int) -> tuple[Forked, socket.socket]:
    """A child, and our end of its door."""
    ours, theirs = socket.socketpair()
    page = os.memfd_create("pulse")
    os.ftruncate(page, 4096)
    environ = {**os.environ, "HOROVOD_RANK": str(rank), DOOR_VARIABLE: json.dumps({"fd": -1})}
    child = Forked(forks, environ, [page, theirs.fileno()])
    os.close(page)
    theirs.close()
    ours.settimeout(30)
    return child, ours


def test_a_child_is_what_it_would_be_by_itself() -> None:
    with server() as forks:
        child, door = fork(forks, 3)
        said = json.loads(door.recv(4096))
        deadline = time.monotonic() + 10
        while not child.pid and time.monotonic() < deadline:
            time.sleep(0.01)
        assert said["pid"] == said["session"] == child.pid
        assert said["rank"] == "3" and said["server"] is None
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 7


def test_children_come_one_after_the_other_and_draw_other_numbers() -> None:
    with server() as forks:
        drawn = []
        for rank in range(2):
            child, door = fork(forks, rank)
            drawn.append(json.loads(door.recv(4096))["drawn"])
            child.kill_all()
            assert child.wait() == -signal.SIGKILL
        assert drawn[0] != drawn[1]


def test_a_child_ends_with_the_process_that_it_was_forked_from() -> None:
    with server() as forks:
        child, door = fork(forks, 0)
        pid = json.loads(door.recv(4096))["pid"]
        forks.process.send_signal(signal.SIGTERM)  # meant for ranks: ignored
        forks.end()
        assert child.wait() == -signal.SIGKILL and not child.is_refused
        deadline = time.monotonic() + 10
        while not has_ended(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert has_ended(pid)


def test_a_child_that_is_killed_before_it_is_there_has_ended() -> None:
    with server() as forks:
        child, _ = fork(forks, 0)
        child.kill_all()
        assert child.wait() == -signal.SIGKILL and not child.is_refused
        other, door = fork(forks, 1)
        assert json.loads(door.recv(4096))["rank"] == "1"
        other.kill_all()
        other.wait()


@pytest.mark.parametrize("more", [THREAD, "no_such_module"])
def test_where_nothing_can_be_forked_that_is_told(more: str) -> None:
    with server(more) as forks:
        child, _ = fork(forks, 0)
        child.wait()
        assert child.is_refused


def test_one_that_is_stopped_is_given_up_for_all_children() -> None:
    with server() as forks:
        forks.process.send_signal(signal.SIGSTOP)
        first, _ = fork(forks, 0)
        first.kill_all()  # all are started again meanwhile
        second, _ = fork(forks, 1)
        assert second.wait() == -signal.SIGKILL and second.is_refused
        assert not first.is_refused


def test_one_that_is_stopped_keeps_its_child_but_not_the_news_of_its_end() -> None:
    with server() as forks:
        child, door = fork(forks, 0)
        pid = json.loads(door.recv(4096))["pid"]
        forks.process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        assert child.returncode is None and not has_ended(pid)
        os.kill(pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        other, _ = fork(forks, 1)
        other.wait()
        assert other.is_refused
