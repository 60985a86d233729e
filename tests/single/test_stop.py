"""What a process does that is asked to stop: in the middle of anything, twice, too late."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from app.errors import STOPPED
from app.pulse import PULSE
from app.stop import Stop, Stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_is_being_done_and_says_in_which_phase(number) -> None:
    stop, before = Stop(), signal.getsignal(number)
    with pytest.raises(Stopped, match=f"stopped by {number.name} in preparation"), stop.listening():
        PULSE.enter("preparation")
        os.kill(os.getpid(), number)
        time.sleep(30)
    assert stop.wanted and signal.getsignal(number) is before


def test_nobody_takes_a_stop_for_a_fault_of_what_was_being_done() -> None:
    with pytest.raises(Stopped), Stop().listening():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        except Exception:  # as libraries do
            pytest.fail("swallowed")


def test_a_stop_that_comes_out_as_another_error_is_still_a_stop() -> None:
    """As when it is raised inside TensorFlow's tracing, or in a destructor."""
    with pytest.raises(Stopped, match="stopped by SIGTERM in"), Stop().listening():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        except Stopped:
            raise SystemError("bad argument to internal function") from None
    with pytest.raises(SystemError), Stop().listening():
        raise SystemError("of its own")


def test_in_training_a_signal_is_only_noted() -> None:
    stop = Stop()
    with stop.listening(), stop.deferred():
        assert not stop.wanted
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wanted
        with pytest.raises(Stopped), stop.deferred(False):  # an evaluation
            stop._asked_at -= 10
            stop.signal = None
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)


def test_two_signals_for_one_wish_are_one() -> None:
    stop = Stop()
    with stop.listening(), stop.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGINT


def test_outside_the_main_thread_python_keeps_its_signals() -> None:
    found = []

    def run() -> None:
        with Stop().listening():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def run(body: str) -> subprocess.Popen:
    """A process that is asked to stop while it does `body`."""
    code = f"""
        import ctypes, os, signal, sys, threading, time
        import app.stop
        from app.stop import Stop, Stopped
        stop = Stop(reach_s=0.5, end_s=1.5, at_once_s=0.2)
        def kill(): os.kill(os.getpid(), signal.SIGTERM)
        def block():  # as in a collective: no Python runs, and no signal ends it
            threading.Timer(0.3, kill).start()
            lock = ctypes.create_string_buffer(64)
            for _ in range(2):
                ctypes.CDLL(None).pthread_mutex_lock(lock)
        with stop.listening(), stop.deferred():
            {body}
        print("over", flush=True)
        time.sleep(2.5)
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("kill(); time.sleep(20)", STOPPED, "the newest checkpoint stands"),
        ("kill(); stop.reached(); time.sleep(20)", STOPPED, "the newest checkpoint stands"),
        ("kill(); stop.reached(); time.sleep(0.8)", 0, ""),
        ("kill()", 0, ""),
        ("block()", STOPPED, "stopped by SIGTERM, but still in start after"),
        (
            "stop._reach_s = 1000; stop._deferred = False; block()",
            STOPPED,
            "the newest checkpoint stands",
        ),
        ("kill(); app.stop.SAME_WISH_S = 0; kill(); time.sleep(20)", -signal.SIGTERM, ""),
    ],
)
def test_a_stop_has_an_end(body, code, said) -> None:
    done = run(body)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert ("over" in done.stdout) == (code == 0)


def test_a_wish_that_has_been_served_does_not_end_the_next_block(monkeypatch) -> None:
    """Also if the thread that watches over it looks only after the next block has begun."""
    ends: list[int] = []
    monkeypatch.setattr("app.stop.os._exit", ends.append)
    wait = threading.Event.wait

    def late(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is None:
            return wait(event)
        time.sleep(timeout)
        return event.is_set()

    stop = Stop(at_once_s=0.3)
    with monkeypatch.context() as slow:
        slow.setattr(threading.Event, "wait", late)
        with stop.listening(), stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.12)  # between two looks, which come every 0.05 s
            assert stop.wanted
        with stop.listening():
            time.sleep(0.6)
    assert ends == []
