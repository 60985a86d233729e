"""What a run shows: event files as TensorBoard reads them, and lines on a screen that is none."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from app.config import Config
from app.distributed.telemetry import StepFacts
from app.evaluate import Scores
from app.loop import Progress
from app.tensorboard import TensorBoard
from app.terminal import Terminal
from app.timing import Clock, RankTimes

SCORES = Scores(np.array([[3, 1], [0, 4]]), loss_sum=4.0)


def progress(step: int, epoch: int = 1) -> Progress:
    return Progress(epoch, step, {"loss": 1.0 / step, "accuracy": 0.5}, 1234.5, 0.01)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar in the event files of a folder, in the order written."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(tf.make_ndarray(value.tensor))
                    found.setdefault(value.tag, []).append((event.step, number))
    return found


def test_scalars_carry_the_optimizer_step_and_are_written_once(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, Config())
    board.trained(progress(20))
    board.trained(progress(40))
    board.epoch_ended(progress(41), SCORES)
    board.evaluated("test", 41, SCORES)
    train = scalars(tmp_path / "train")
    assert train["loss"] == [(20, pytest.approx(0.05)), (40, pytest.approx(0.025))]
    assert train["examples_per_second"] == [(20, 1234.5), (40, 1234.5)]
    assert [step for step, _ in train["learning_rate"]] == [20, 40]
    for split in ("validation", "test"):
        assert scalars(tmp_path / split) == {"loss": [(41, 0.5)], "accuracy": [(41, 0.875)]}


def test_the_step_is_shown_as_the_mean_and_the_slowest_rank_had_it(tmp_path: Path) -> None:
    table = np.array([[10, 5.0, 1.0, 3.0, 1.0], [10, 5.0, 0.5, 4.5, 0.5]])
    board = TensorBoard(tmp_path, Config())
    shown = dataclasses.replace(
        progress(20),
        times=RankTimes.of(table),
        memory_bytes=np.array([1e9, 2e9]),
        facts=StepFacts(3.0, 10.0, 0.1, 0.25),
        bytes_sent=2e6,
        bytes_uncompressed=4e6,
    )
    board.trained(shown)
    board.evaluated("test", 20, SCORES)
    train = {name: points[0][1] for name, points in scalars(tmp_path / "train").items()}
    assert train["step_time_mean_s/input"] == pytest.approx(0.075)
    assert train["step_time_slowest_rank_s/compute"] == pytest.approx(0.4)
    assert train["health/update_to_weight_ratio"] == pytest.approx(0.01)
    assert train["memory_gb/largest_rank"] == pytest.approx(2.0)
    assert train["exchange/compression_ratio"] == pytest.approx(2.0)


def test_without_validation_there_is_no_validation_curve(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, Config())
    board.epoch_ended(progress(41), None)
    assert not (tmp_path / "validation").exists()


def test_the_config_is_there_as_text(tmp_path: Path) -> None:
    TensorBoard(tmp_path, Config()).evaluated("test", 1, SCORES)
    (events,) = (tmp_path / "train").glob("events.*")
    texts = [
        value.tensor.string_val[0].decode()
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
        if value.tag == "config"
    ]
    assert len(texts) == 1 and "learning_rate = 0.001" in texts[0]


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
