"""The elastic supervisor and its agents, with small programs that speak to the door as ranks do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import has_ended

ROOT = Path(__file__).resolve().parents[3]
# In place of the application, in the process that an agent starts. Files stand for collectives.
RANK = """
import os
if "LOCKSTEP_FORKS" in os.environ:
    os._exit(0)  # nothing to fork from: start a fresh process
if "LOCKSTEP_PULSE" in os.environ:
    import json, pathlib, signal, socket, sys, threading, time
    from app.elastic.line import Line
    from app.pulse import PULSE

    room = pathlib.Path(os.environ["LOCKSTEP_TEST_ROOM"])
    place = json.loads(os.environ["LOCKSTEP_DOOR"])
    door = Line(socket.socket(fileno=place["fd"]))
    asked, cut, worlds = [], threading.Event(), []
    came = threading.Event()

    def listen():
        for message in door.messages():
            if "cut" in message:
                cut.set()
            elif "newcomers" in message and message["newcomers"]:
                (room / "door").touch()
            elif "world" in message:
                os.environ.update(message["world"]["variables"])
                worlds.append(message["world"]["number"])
                came.set()
        os._exit(3)

    def note(event):
        text = json.dumps({"pid": os.getpid(), "agent": os.getppid(), "event": event,
                           "rank": int(os.environ["HOROVOD_RANK"]),
                           "size": int(os.environ["HOROVOD_SIZE"]), **place})
        with open(room / "log", "a") as file:
            file.write(text + "\\n")

    def wait():
        came.clear()
        PULSE.enter("door", float("inf"))
        door.send({"said_by": os.getpid(), "waits": {"step": PULSE.step, "code": "c"}})
        assert came.wait(30)
        cut.clear()
        (room / "door").unlink(missing_ok=True)

    signal.signal(signal.SIGTERM, lambda *_: (asked.append(1), PULSE.ask_to_stop()))
    threading.Thread(target=listen, daemon=True).start()
    worlds.append(0)
    PULSE.limits(3.0, 3.0)
    if place["joins"]:
        time.sleep(1)
        wait()
    while True:
        PULSE.enter("step")
        about = {"world": worlds[-1], "run": str(room), "code": "c",
                 "recovers": not (room / "stiff").exists()}
        door.send({"member": about})
        note(f"member {worlds[-1]}")
        while not cut.is_set() and not (room / "door").exists():
            PULSE.step += 1
            PULSE.beat()
            time.sleep(0.05)
            if asked:
                time.sleep(0.5)
                os._exit(75)
            if (room / "end").exists():
                os._exit(0)
            if (room / "loop").exists() and os.environ["HOROVOD_RANK"] == "1":
                (room / "loop").unlink()
                PULSE.enter("callbacks")
                time.sleep(60)
        time.sleep(0.1)
        wait()
"""
LAUNCH = """
import os, sys
from app.doctor.hosts import Host
from launch.commands import Placement, rank_environment
from launch.elastic import Elastic
from launch.places import Slot
from launch.state import Terms
ranks, least = int(sys.argv[1]), int(sys.argv[2])
placement = Placement([Host("localhost", ranks)])
environ = rank_environment(os.environ, placement, ["train"], "/")
slots = [Slot("localhost", slot, ranks) for slot in range(ranks)]
sys.exit(Elastic(placement, slots, Terms(ranks, ranks, least, 3.0), environ).run())
"""


class Launch:
    """A launch of ranks that train."""

    def __init__(self, room, ranks, least=1):
        (room / "sitecustomize.py").write_text(RANK)
        environ = {"PYTHONPATH": f"{room}:{ROOT}", "LOCKSTEP_TEST_ROOM": str(room)}
        self.room, self.seen = room, 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(ranks), str(least)],
            env={**os.environ, **environ},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.members = self.world(ranks)

    def log(self):
        file = self.room / "log"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def world(self, size):
        """Wait until all ranks of a next world of this size train; what they noted, by rank."""
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            found = {note["rank"]: note for note in self.log()[self.seen :] if note["size"] == size}
            if len(found) == size:
                self.seen = len(self.log())
                time.sleep(0.3)
                return [found[rank] for rank in range(size)]
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        pytest.fail(f"no world of {size}: {self.log()}")

    def end(self):
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err

    def finish(self):
        (self.room / "end").touch()
        return self.end()


@pytest.fixture
def launch(tmp_path):
    launches = []

    def start(ranks, least=1):
        launches.append(Launch(tmp_path, ranks, least))
        return launches[-1]

    yield start
    for launched in launches:
        launched.process.kill()
        launched.process.communicate()


@pytest.mark.parametrize("victim", [0, 2])
def test_survivors_of_a_killed_rank_go_on_and_a_newcomer_takes_its_place(launch, victim):
    run = launch(3)
    left = [note["pid"] for note in run.members if note["rank"] != victim]
    killed_s = time.monotonic()
    os.kill(run.members[victim]["pid"], signal.SIGKILL)
    smaller = run.world(2)
    assert time.monotonic() - killed_s < 2
    assert [note["pid"] for note in smaller] == left
    whole = run.world(3)
    assert [note["pid"] for note in whole[:2]] == left and whole[2]["joins"]
    assert whole[2]["run"] == str(run.room) and whole[2]["place"] == victim
    code, err = run.finish()
    first, second = err.splitlines()
    assert code == 0 and second.startswith("2 -> 3 ranks at step ") and "rank 2" in second
    assert first.startswith(f"rank {victim} was killed by SIGKILL")
    assert first.endswith("going on with 2 ranks")


def test_two_killed_at_once_and_an_agent(launch):
    run = launch(3)
    for rank in (0, 1):
        os.kill(run.members[rank]["pid"], signal.SIGKILL)
    run.world(1)
    whole = run.world(3)
    os.kill(whole[1]["agent"], signal.SIGKILL)
    run.world(2)
    assert run.world(3)[0]["pid"] == whole[0]["pid"]
    code, err = run.finish()
    assert code == 0 and "rank 0 was killed" in err and "rank 1 was killed" in err


def test_ranks_that_do_not_recover_are_all_started_again(launch, tmp_path):
    (tmp_path / "stiff").touch()
    run = launch(2)
    os.kill(run.members[1]["pid"], signal.SIGKILL)
    again = run.world(2)
    pids = {note["pid"] for note in run.members}
    assert not pids & {note["pid"] for note in again}
    assert [note["agent"] for note in again] == [note["agent"] for note in run.members]
    assert all(note["run"] == str(tmp_path) and not note["joins"] for note in again)
    code, err = run.finish()
    assert code == 0 and err.startswith("restarting all ranks after step "), err


def test_a_rank_in_a_loop_is_named_and_killed(launch, tmp_path):
    run = launch(2)
    (tmp_path / "loop").touch()
    run.world(1)
    run.world(2)
    code, err = run.finish()
    assert code == 0 and "rank 1: no progress for 3 s in callbacks" in err, err


def test_a_stopped_rank_and_a_stopped_agent_are_given_up(launch):
    run = launch(2)
    os.kill(run.members[1]["pid"], signal.SIGSTOP)
    run.world(1)
    whole = run.world(2)
    os.kill(whole[1]["agent"], signal.SIGSTOP)
    run.world(1)
    run.world(2)
    code, err = run.finish()
    assert code == 0 and "its process is stopped" in err and "no word from its host" in err, err


def test_a_signal_to_a_rank_stops_all_of_its_host(launch):
    run = launch(2)
    os.kill(run.members[1]["pid"], signal.SIGTERM)
    assert run.end() == (75, "stopped by a signal to rank 1\n")


def test_a_signal_to_the_supervisor_stops_all(launch):
    run = launch(2)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == (75, "stopped by SIGTERM\n")


def test_the_only_rank_is_started_again(launch):
    run = launch(1)
    os.kill(run.members[0]["pid"], signal.SIGKILL)
    (again,) = run.world(1)
    assert again["run"] == str(run.room) and not again["joins"]
    assert run.finish()[0] == 0


def test_ranks_end_with_their_supervisor(launch):
    run = launch(2)
    run.process.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if all(has_ended(note["pid"]) for note in run.members):
            return
        time.sleep(0.1)
    pytest.fail("a rank is left")


def test_no_process_shows_the_token(launch):
    run = launch(1)
    for pid in (run.members[0]["pid"], run.members[0]["agent"]):
        for name in ("environ", "cmdline"):
            assert b"LOCKSTEP_LINE" not in Path(f"/proc/{pid}/{name}").read_bytes()
    assert run.finish()[0] == 0
