"""The share of time in steps that counted, over all starts of a run directory."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.monitor import goodput
from app.monitor.goodput import CAUSES, STEPS, Goodput
from app.pulse import Pulse

PROCESS_BEGAN = 1_000_000.0
BEFORE = 0.5  # s from there to the first import


class Machine:
    """Processes one after another, on clocks that the test moves."""

    def __init__(self, ledger: Path, monkeypatch: pytest.MonkeyPatch):
        self._ledger, self._patch = ledger, monkeypatch
        self.wall, self.monotonic = PROCESS_BEGAN, 50.0
        monkeypatch.setattr("time.time", lambda: self.wall)
        monkeypatch.setattr("time.monotonic", lambda: self.monotonic)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def process(self, alive_s: float = 0.0) -> Goodput:
        """A new process, which has just imported the application."""
        self._patch.setattr(Goodput, "_is_first", True)
        created = self.monotonic - alive_s
        self._patch.setattr(goodput, "_process_age_s", lambda: self.monotonic - created)
        self.passes(BEFORE)
        self.pulse = Pulse()
        self._patch.setattr(goodput, "PULSE", self.pulse)
        return Goodput(self._ledger)

    def beside(self) -> Goodput:
        """A rank that began with the last process, and spends its time in the same way."""
        self._patch.setattr(Goodput, "_is_first", True)
        return Goodput(None)

    def spends(self, **seconds: float) -> None:
        for phase, duration in seconds.items():
            self.pulse.enter(phase.replace("_", " "))
            self.passes(duration)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch) -> Machine:
    return Machine(tmp_path / "goodput.json", monkeypatch)


def seconds(ledger: Goodput) -> dict[str, float]:
    """Those that are not 0."""
    return {cause: pytest.approx(s) for cause, s in ledger.summary().seconds.items() if s > 1e-9}


def test_every_phase_of_an_undisturbed_run_is_counted_once(machine: Machine) -> None:
    ledger = machine.process()
    machine.spends(start=1.5, preparation=2, first_trace=3)
    ledger.begin(0)
    machine.spends(input=1, step=20, callbacks=0.5, reports=0.5, agreement=1, checkpoint=2)
    machine.spends(validation=4, test=5, end=1)
    ledger.finished(100)
    assert seconds(ledger) == {
        **{"start": 7.0, "input": 1.0, STEPS: 20.0, "checkpoint": 2.0},
        **{"evaluation": 9.0, "other": 3.0},
    }
    summary = ledger.summary()
    assert summary.wall_s == pytest.approx(machine.wall - PROCESS_BEGAN)
    assert summary.share == pytest.approx(20 / 42) and summary.restarts == 0
    said = "48% of 42 s in steps that counted; start 17%, input 2%, checkpoint 5%, evaluation 21%"
    assert str(summary) == f"{said}, other 7%"
    found = summary.to_json()
    assert found["share"] == 0.4762 and found["restarts"] == 0
    assert list(found["seconds"]) == [STEPS, *CAUSES]


def test_what_a_killed_start_did_after_its_checkpoint_is_lost_with_the_time_until_the_next(
    machine: Machine,
) -> None:
    ledger = machine.process()
    ledger.begin(0)
    machine.spends(step=10)
    ledger.mark(50)
    machine.spends(checkpoint=1, step=7)  # killed at step 85
    machine.passes(30)
    ledger = machine.process()
    machine.spends(preparation=2)
    ledger.begin(50)
    machine.spends(step=10)
    ledger.finished(100)
    assert seconds(ledger) == {STEPS: 20.0, "start": 2 * BEFORE + 2, "restart": 1 + 7 + 30}
    assert ledger.summary().restarts == 1
    assert ledger.summary().wall_s == pytest.approx(machine.wall - PROCESS_BEGAN)


def test_a_start_that_goes_back_further_loses_more(machine: Machine) -> None:
    ledger = machine.process()
    ledger.begin(0)
    for step in (10, 20, 30):
        machine.spends(step=10)
        ledger.mark(step)
    ledger = machine.process()  # the checkpoints of steps 20 and 30 were damaged
    ledger.begin(10)
    assert seconds(ledger) == {STEPS: 10.0, "restart": 20.0, "start": 2 * BEFORE}
    machine.spends(step=10)
    ledger.mark(20)
    ledger = machine.process()
    ledger.begin(20)
    assert seconds(ledger) == {STEPS: 20.0, "restart": 20.0, "start": 3 * BEFORE}
    assert ledger.summary().restarts == 2


def test_starts_that_reach_no_checkpoint_are_lost_whole(machine: Machine) -> None:
    for _ in range(3):
        machine.process().begin(0)
        machine.spends(step=5)
    ledger = machine.process()
    ledger.begin(0)
    # Of the last one, this process's own; of the others, what came before training.
    assert seconds(ledger) == {"start": 4 * BEFORE, "restart": 15.0}


def test_going_back_to_a_checkpoint_in_the_same_start_loses_the_steps_since(
    machine: Machine,
) -> None:
    ledger = machine.process()
    ledger.begin(0)
    machine.spends(step=10)
    ledger.mark(10)
    machine.spends(checkpoint=1, step=6, input=2)
    ledger.lost_since(10)
    machine.spends(step=4)
    assert seconds(ledger) == {STEPS: 14.0, "restart": 9.0, "start": BEFORE}
    assert ledger.summary().restarts == 1
    machine.spends(step=6)
    ledger.finished(20)
    assert ledger.summary().wall_s == pytest.approx(machine.wall - PROCESS_BEGAN)


def test_a_ledger_without_a_file_can_go_back_to_the_beginning(machine: Machine) -> None:
    machine.process()
    ledger = Goodput(None)
    machine.spends(step=6)
    ledger.lost_since(0)
    machine.spends(step=2)
    assert seconds(ledger) == {STEPS: 2.0, "restart": 6.0}


def test_the_time_before_a_finished_run_is_prolonged_is_no_loss(machine: Machine) -> None:
    ledger = machine.process()
    ledger.begin(0)
    machine.spends(step=10)
    ledger.mark(10)
    machine.spends(test=5)
    ledger.finished(10)
    machine.passes(86_400)
    ledger = machine.process()
    ledger.begin(10)
    assert seconds(ledger) == {STEPS: 10.0, "evaluation": 5.0, "start": 2 * BEFORE}
    assert ledger.summary().restarts == 0
    machine.spends(step=1)  # killed: now it is one
    machine.passes(100)
    ledger = machine.process()
    ledger.begin(10)
    assert seconds(ledger)["restart"] == 101.0
    assert ledger.summary().restarts == 1


@pytest.mark.parametrize("jump_s", [-7200.0, -10.0])
def test_a_clock_that_is_set_back_makes_no_negative_time(machine: Machine, jump_s: float) -> None:
    ledger = machine.process()
    machine.wall += jump_s
    ledger.begin(0)
    machine.spends(step=10)
    ledger.mark(10)
    machine.wall += jump_s
    ledger = machine.process()
    ledger.begin(10)
    assert seconds(ledger) == {STEPS: 10.0, "start": 2 * BEFORE}


def test_the_age_of_a_process_is_that_of_a_process() -> None:
    code = "import sys, time; from app.monitor import goodput; time.sleep(1); "
    code += "print(goodput._process_age_s())"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1.0 <= float(done.stdout) <= time.monotonic() - began + 0.02  # a tick of the system


def test_a_shell_that_became_the_process_later_is_no_hour_of_start(machine: Machine) -> None:
    assert seconds(machine.process(alive_s=3600.0)) == {"start": goodput.MOST_BEFORE_S}


def test_a_second_run_of_a_process_counts_from_its_own_beginning(machine: Machine) -> None:
    machine.process().begin(0)
    machine.spends(step=100)
    ledger = Goodput(None)
    machine.spends(step=2, input=1)
    assert seconds(ledger) == {STEPS: 2.0, "input": 1.0}


GOOD = {"step": 0, "at": 1.0, "seconds": dict.fromkeys((STEPS, *CAUSES), 1.0)}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "null",
        '{"format": 2}',
        json.dumps({"format": 1, "finished": False, "restarts": 0, "marks": []}),
        json.dumps({"format": 1, "finished": False, "restarts": 0, "marks": [3]}),
        json.dumps(
            {"format": 1, "finished": False, "restarts": 0, "marks": [{**GOOD, "at": None}]}
        ),
        json.dumps(
            {"format": 1, "finished": False, "restarts": 0, "marks": [{**GOOD, "at": float("nan")}]}
        ),
    ],
)
def test_a_damaged_ledger_is_replaced_with_a_warning(
    content: str, machine: Machine, tmp_path: Path, caplog
) -> None:
    path = tmp_path / "goodput.json"
    path.write_text(content)
    ledger = machine.process()
    ledger.begin(0)
    machine.spends(step=3)
    ledger.mark(5)
    assert "goodput.json cannot be read" in caplog.text
    assert seconds(ledger) == {STEPS: 3.0, "start": BEFORE}
    caplog.clear()
    machine.process().begin(5)
    assert caplog.text == ""


def test_a_ledger_that_cannot_be_written_is_said_once_and_ends_nothing(
    machine: Machine, tmp_path: Path, caplog
) -> None:
    (tmp_path / "goodput.json").mkdir()
    caplog.set_level(logging.WARNING)
    ledger = machine.process()
    ledger.begin(0)
    for step in range(5):
        machine.spends(step=1)
        ledger.mark(step)
    assert caplog.text.count("cannot write") == 1
    assert seconds(ledger) == {STEPS: 5.0, "start": BEFORE}


def test_the_ledger_does_not_grow_without_end(machine: Machine, tmp_path: Path) -> None:
    ledger = machine.process()
    ledger.begin(0)
    for step in range(3 * goodput.MOST_MARKS):
        machine.spends(step=1)
        ledger.mark(step)
    kept = json.loads((tmp_path / "goodput.json").read_text())["marks"]
    assert len(kept) == goodput.MOST_MARKS
    ledger = machine.process()
    ledger.begin(5)  # older than any mark
    assert seconds(ledger)["restart"] == pytest.approx(goodput.MOST_MARKS - 1)


def test_a_rank_that_takes_the_ledger_over_goes_on_where_the_chief_was(
    machine: Machine, tmp_path: Path
) -> None:
    chief = machine.process()
    rank = machine.beside()
    for ledger in (chief, rank):
        ledger.begin(0)
    machine.spends(step=10)
    for ledger in (chief, rank):
        ledger.mark(50)
    machine.spends(step=7, recovery=3)  # in which the chief is lost
    rank.lead(tmp_path / "goodput.json")
    machine.spends(step=5)
    rank.finished(100)
    expected = {"start": BEFORE, STEPS: 22.0, "restart": 3.0}
    assert seconds(rank) == expected and rank.summary().restarts == 0
    again = machine.process()  # reads what was written
    again.begin(100)
    assert seconds(again) == expected | {"start": 2 * BEFORE}


@pytest.mark.parametrize(("own_marks", "counts"), [((50,), 10.0), ((50, 60), 15.0)])
def test_a_rank_that_takes_the_ledger_over_and_goes_back_loses_the_steps_since(
    machine: Machine, tmp_path: Path, own_marks: tuple[int, ...], counts: float
) -> None:
    chief = machine.process()
    rank = machine.beside()
    for ledger in (chief, rank):
        ledger.begin(0)
    machine.spends(step=10)
    for ledger in (chief, rank):
        ledger.mark(50)
    machine.spends(step=5)
    if 60 in own_marks:  # a commit point without a checkpoint
        rank.mark(60)
    machine.spends(step=2, recovery=3)
    rank.lead(tmp_path / "goodput.json")
    rank.lost_since(own_marks[-1])
    assert seconds(rank) == {"start": BEFORE, STEPS: counts, "restart": 20.0 - counts}
    assert rank.summary().restarts == 1
    assert rank.summary().wall_s == pytest.approx(machine.wall - PROCESS_BEGAN)


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_rank_that_finds_no_ledger_to_take_over_writes_its_own(
    machine: Machine, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "goodput.json"
    machine.process()
    rank = machine.beside()
    rank.begin(0)
    machine.spends(step=10, recovery=3)
    if content:
        path.write_text(content)
    rank.lead(path)
    rank.mark(50)
    assert seconds(rank) == {"start": BEFORE, STEPS: 10.0, "restart": 3.0}
    assert json.loads(path.read_text())["marks"][-1]["step"] == 50
