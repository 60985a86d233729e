"""What a run shows on a screen that is none, and the clock behind it."""

from pathlib import Path

import numpy as np
import pytest

from app.progress import Progress
from app.scores import Scores
from app.terminal import Terminal
from app.timing import Clock, RankTimes

SCORES = Scores(np.array([[3, 1], [0, 4]]), loss_sum=4.0)


def progress(step: int, epoch: int = 1) -> Progress:
    return Progress(epoch, step, {"loss": 1.0 / step, "accuracy": 0.5}, 1234.5, 0.01)


def test_a_pipe_gets_lines_and_the_log_gets_every_epoch(tmp_path: Path, capsys) -> None:
    terminal = Terminal(tmp_path / "log.txt", epochs=3)
    terminal.table("Plan", {"model": "cnn", "run": "x" * 200})
    terminal.began(0, 60)
    for epoch in (1, 2, 3):
        terminal.trained(progress(20 * epoch, epoch))
        terminal.epoch_ended(progress(20 * epoch, epoch), SCORES)
    terminal.ended()
    out = capsys.readouterr().out
    assert "\r" not in out and "\x1b" not in out
    assert "x" * 200 in out  # a path stays on one line, to be copied
    assert "epoch 1/3" in out and "epoch 3/3" in out
    assert "epoch 2/3" not in out  # less than two seconds after the first
    log = (tmp_path / "log.txt").read_text()
    assert [f"epoch {n}/3" in log for n in (1, 2, 3)] == [True] * 3
    assert "validation 87.50%" in log


def test_the_named_terminal_gets_the_bar(tmp_path: Path, monkeypatch, capsys) -> None:
    screen = tmp_path / "tty"
    screen.touch()
    monkeypatch.setenv("LOCKSTEP_TERMINAL", str(screen))
    terminal = Terminal(tmp_path / "log.txt", epochs=1)
    terminal.table("Plan", {"model": "cnn"})
    assert "model" in screen.read_text()
    assert capsys.readouterr().out == ""


def test_the_clock_leaves_out_compilation_and_pauses(monkeypatch) -> None:
    now = iter([0.0, 9.0, 10.0, 12.0, 13.0, 100.0, 101.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock()
    clock.tick(64, compiled=True)  # at 0
    clock.tick(64, compiled=True)  # at 9: a second trace, 9 s not counted
    clock.tick(64, compiled=False)  # at 10: 1 s
    mark = clock.mark
    clock.tick(64, compiled=False)  # at 12: 2 s
    clock.pause()  # at 13: 1 s more
    clock.tick(64, compiled=False)  # at 100: the pause is not counted
    clock.tick(64, compiled=False)  # at 101: 1 s
    assert clock.since().examples_per_second == pytest.approx(3 * 64 / 5)
    assert clock.since(mark).examples_per_second == pytest.approx(2 * 64 / 4)


def test_the_clock_counts_how_long_input_was_waited_for_and_how_long_the_step_took(
    monkeypatch,
) -> None:
    now = iter([0.0, 0.0, 3.0, 5.0, 5.5, 6.5, 10.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock()
    clock.begin()  # at 0
    for number, _ in enumerate(clock.waits_for(["first", "second"])):
        clock.tick(8, compiled=number == 0)  # the first was waited for 3 s, but also compiled
    counted = clock.since()
    assert (counted.passes, counted.seconds) == (1, 5.0)  # from 5 to 10
    assert (counted.waited, counted.stepped) == (1.0, 3.5)  # asked at 5.5, given at 6.5
    assert clock.waited_share == pytest.approx(0.2)


def test_the_parts_of_a_pass_add_up_to_it_on_every_rank() -> None:
    times = RankTimes.of(np.array([[10, 5.0, 1.0, 3.0, 2.0], [10, 5.0, 0.0, 4.0, 9.0]]))
    np.testing.assert_allclose(times.input, [0.1, 0.0])
    np.testing.assert_allclose(times.compute, [0.1, 0.0])  # no less than nothing
    np.testing.assert_allclose(times.exchange, [0.2, 0.4])
    np.testing.assert_allclose(times.other, [0.1, 0.1])
    np.testing.assert_allclose(times.whole, [0.5, 0.5])
