"""What a run shows on a screen that is none, and the clock behind it."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.distributed.world import World
from app.evaluation.results import Results
from app.evaluation.scores import Scores
from app.monitor import logs
from app.monitor.progress import Progress
from app.monitor.rank_log import SKIPS_SHOWN, RankLog
from app.monitor.terminal import Terminal
from app.monitor.timing import Clock, RankTimes

SCORES = Results({"label": Scores(np.array([[3, 1], [0, 4]]), loss_sum=4.0)})


def progress(step: int, epoch: int = 1) -> Progress:
    return Progress(epoch, step, {"loss": 1.0 / step, "accuracy": 0.5}, 1234.5, 0.01)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """What rank 0 logs."""
    logs.keep(tmp_path, 0)
    yield tmp_path / "logs" / "rank-000.log"
    logs.stop()


def test_a_pipe_gets_lines_and_the_log_gets_the_tables(log: Path, capsys) -> None:
    terminal = Terminal(epochs=3)
    terminal.table("Plan", {"model": "cnn", "run": "x" * 200})
    terminal.began(0, 60)
    for epoch in (1, 2, 3):
        terminal.trained(progress(20 * epoch, epoch))
        terminal.epoch_ended(progress(20 * epoch, epoch), SCORES)
    terminal.ended(0)
    out = capsys.readouterr().out
    assert "\r" not in out and "\x1b" not in out
    assert "x" * 200 in out  # a path stays on one line, to be copied
    assert "epoch 1/3" in out and "epoch 3/3" in out and "validation 87.50%" in out
    assert "epoch 2/3" not in out  # less than two seconds after the first
    assert "Plan\n  model  cnn\n" in log.read_text()


def test_both_models_are_shown_where_weights_are_averaged(log: Path, capsys) -> None:
    better = Scores(np.array([[4, 0], [0, 4]]), loss_sum=1.0)
    for show in (Terminal(epochs=1), RankLog(World())):
        show.began(0, 20)
        show.averaged("validation", progress(20).place, better)
        show.epoch_ended(progress(20), SCORES)
    assert "validation 87.50%, ema 100.00%" in capsys.readouterr().out
    assert "step 20: validation with the weights' average 100.00%" in log.read_text()


def test_what_looks_like_markup_is_shown_as_it_is(capsys) -> None:
    Terminal(epochs=1).table("Plan", {"data": "[red]a[/red] :smile: [link", "run": "[bold]"})
    out = capsys.readouterr().out
    assert "  data  [red]a[/red] :smile: [link\n  run   [bold]\n" in out


def test_the_time_left_is_told_from_the_steps_since_the_first_report(monkeypatch, capsys) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    terminal = Terminal(epochs=3)
    terminal.began(20, 100)  # resumed
    now[0] += 60.0  # of which most is TensorFlow's, to compile
    terminal.trained(progress(40))
    now[0] += 1.0
    terminal.trained(progress(41))
    now[0] += 29.0
    terminal.trained(progress(70))
    now[0] += 30.0
    terminal.trained(progress(100))
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith(" left") for line in lines] == [False, True, False]
    assert lines[1].endswith("  0:00:30 left")


def test_a_quiet_terminal_prints_nothing_and_still_logs(log: Path, capsys) -> None:
    terminal = Terminal(epochs=1, quiet=True)
    terminal.table("Plan", {"model": "cnn"})
    terminal.began(0, 20)
    terminal.trained(progress(20))
    terminal.epoch_ended(progress(20), SCORES)
    terminal.ended(0)
    assert capsys.readouterr() == ("", "")
    assert "Plan" in log.read_text()


def test_the_named_terminal_gets_the_bar(tmp_path: Path, monkeypatch, capsys) -> None:
    screen = tmp_path / "tty"
    screen.touch()
    monkeypatch.setenv("LOCKSTEP_TERMINAL", str(screen))
    terminal = Terminal(epochs=1)
    terminal.table("Plan", {"model": "cnn"})
    assert "model" in screen.read_text()
    assert capsys.readouterr().out == ""


def test_each_rank_logs_its_own_times_and_memory(tmp_path: Path) -> None:
    one = World()
    one.rank = 1
    logs.keep(tmp_path, 1)
    show = RankLog(one)
    table = np.array([[10, 5.0, 1.0, 3.0, 2.0], [10, 5.0, 0.5, 4.0, 1.0]])
    shown = dataclasses.replace(
        progress(20), times=RankTimes.of(table), memory_bytes=np.array([1e6, 2e6])
    )
    show.trained(shown)
    show.epoch_ended(progress(21), SCORES)
    logs.stop()
    text = (tmp_path / "logs" / "rank-001.log").read_text()
    assert "input 50.0 ms  compute 300.0 ms  exchange 100.0 ms  other 50.0 ms  memory 2 MB" in text
    assert f"process {os.getpid()}" in text and "tensorflow 2." in text
    assert "epoch 1 in" in text and "validation 87.50%" in text


def test_what_befalls_a_run_is_in_every_log_and_on_the_screen(tmp_path: Path, capsys) -> None:
    logs.start(0)
    logs.keep(tmp_path, 0)
    show = RankLog(World())
    show.straggles(20, "rank 3 on gpu2 holds the others up")
    show.stopping(40, "rank 1 was asked to stop")
    for step in range(50, 50 + 2 * SKIPS_SHOWN):
        show.skipped(step, "left out")
    logs.stop()
    shown, log = capsys.readouterr().err, (tmp_path / "logs" / "rank-000.log").read_text()
    assert "warning: step 20: rank 3 on gpu2 holds" in shown
    assert "rank 1 was asked" not in shown  # the end of the run says it
    for text in ("step 20: rank 3 on gpu2 holds", "step 40: rank 1 was asked to stop"):
        assert text in log
    assert shown.count("left out") == SKIPS_SHOWN and "later ones only in the log" in shown
    assert log.count("left out") == 2 * SKIPS_SHOWN


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


def test_the_parts_of_a_step_add_up_to_it_on_every_rank() -> None:
    times = RankTimes.of(np.array([[10, 5.0, 1.0, 3.0, 2.0], [10, 5.0, 0.0, 4.0, 9.0]]))
    np.testing.assert_allclose(times.input, [0.1, 0.0])
    np.testing.assert_allclose(times.compute, [0.1, 0.0])  # no less than nothing
    np.testing.assert_allclose(times.exchange, [0.2, 0.4])
    np.testing.assert_allclose(times.other, [0.1, 0.1])
    np.testing.assert_allclose(times.whole, [0.5, 0.5])


def test_half_a_step_is_half_a_step_and_none_is_no_time() -> None:
    times = RankTimes.of(np.array([[0.5, 1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(times.whole, [2.0, 0.0])
