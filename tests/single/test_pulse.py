"""What a process says of itself through a page of shared memory."""

import mmap
import os
import struct
import subprocess
import sys
import time

import pytest

from app.pulse import PAGE_BYTES, PAGE_VARIABLE, Pulse, read


def page() -> mmap.mmap:
    return mmap.mmap(-1, PAGE_BYTES)


def test_phases_nest_and_have_limits_of_their_own() -> None:
    shared = page()
    pulse = Pulse(shared)
    pulse.limits(3.0, 70.0)
    pulse.enter("step")
    assert (read(shared).phase, read(shared).limit_s) == ("step", 3.0)
    with pulse.during("first trace", 500.0):
        with pulse.during("validation"), pulse.waiting():
            assert read(shared)[1:3] == ("validation", True) and read(shared).limit_s == 70.0
        assert read(shared)[1:3] == ("first trace", False) and read(shared).limit_s == 500.0
    assert (read(shared).phase, read(shared).limit_s) == ("step", 3.0)


def test_a_reader_sees_the_step_and_how_long_there_was_no_progress() -> None:
    shared = page()
    assert read(shared) is None
    pulse = Pulse(shared)
    pulse.step = 17
    pulse.beat()
    time.sleep(0.05)
    found = read(shared)
    assert found.step == 17 and 0.05 <= found.age_s < 5
    pulse.beat()
    assert read(shared).age_s < found.age_s
    assert not found.wants_stop
    pulse.ask_to_stop()
    assert read(shared).wants_stop


def test_the_seconds_of_all_phases_add_up(monkeypatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    pulse = Pulse()
    for phase in ("step", "input", "step"):
        pulse.enter(phase)
    first, total = pulse.total_seconds, sum(pulse.total_seconds.values())
    assert set(first) == {"start", "step", "input"}
    assert sum(pulse.total_seconds.values()) == total + 1


def test_a_process_that_died_while_writing_can_still_be_read() -> None:
    shared = page()
    Pulse(shared).enter("step")
    struct.pack_into("<q", shared, 0, 9)
    assert read(shared).phase == "step"


@pytest.mark.parametrize("given", ["", "nonsense", "987654"])
def test_without_a_page_there_is_one_of_its_own(given, monkeypatch) -> None:
    monkeypatch.setenv(PAGE_VARIABLE, given)
    assert Pulse.inherited().phase == "start"


def test_a_child_writes_into_the_page_that_it_inherits() -> None:
    descriptor = os.memfd_create("pulse")
    os.ftruncate(descriptor, PAGE_BYTES)
    code = "from app.pulse import PULSE; PULSE.enter('validation', 9.0)"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, PAGE_VARIABLE: str(descriptor)},
        pass_fds=[descriptor],
        check=True,
    )
    found = read(mmap.mmap(descriptor, PAGE_BYTES))
    os.close(descriptor)
    assert (found.phase, found.limit_s) == ("validation", 9.0)
