"""What a resumed run keeps of the event files that it finds."""

from pathlib import Path

import pytest

from app.config import Config
from app.monitor.event_files import event_files, keep_only
from app.monitor.progress import Place
from app.monitor.tensorboard import TensorBoard, is_kept
from tests.single.monitor.event_values import (
    ABOUT,
    RESULTS,
    START,
    progress,
    scalars,
    text,
    values,
)


@pytest.mark.parametrize("checkpoint", [Place(20, 2, 200), Place(25, 2, 250)])
def test_a_resumed_run_drops_what_came_after_its_checkpoint(
    checkpoint: Place, tmp_path: Path
) -> None:
    def train(place: Place, steps: range) -> None:
        board = TensorBoard(tmp_path, Config(), ABOUT, 2, place)
        for step in steps:
            board.trained(progress(step))
            if step % 10 == 0:
                board.averaged("validation", progress(step, step // 10).place, RESULTS)
                board.epoch_ended(progress(step, step // 10), RESULTS)
                board.checkpointed(step, Path("epoch"), 0.1)
        board.evaluated("test", Place(30, 3, 300), RESULTS)
        board.averaged("test", Place(30, 3, 300), RESULTS)
        board.ended(30)

    train(START, range(1, 28))  # killed in the third epoch
    for _ in range(2):  # and resumed twice, at its beginning or within it
        train(checkpoint, range(checkpoint.step + 1, 31))
    wanted = list(range(1, 31))
    for run, tag, steps in (
        ("train", "learning/loss", wanted),
        ("train", "speed/examples_per_second", wanted),
        ("train", "learning_by_epoch/loss", [1, 2, 3]),
        ("validation", "learning_by_examples/loss", [100, 200, 300]),
        ("validation", "learning/loss", [10, 20, 30]),
        ("train", "timeline/checkpointed", [10, 20, 30]),
        ("train", "timeline/started", [0]),
        ("train", "timeline/resumed", [checkpoint.step]),
        ("train", "timeline/finished", [30]),
        ("test", "learning/loss", [30]),
        ("validation_ema", "learning/accuracy", [10, 20, 30]),
        ("validation_ema", "learning_by_epoch/loss", [1, 2, 3]),
        ("test_ema", "learning/loss", [30]),
    ):
        assert [step for step, _ in scalars(tmp_path / run)[tag]] == steps, (run, tag)
    assert [tag for tag, _, _ in values(tmp_path)].count("_hparams_/session_start_info") == 1


def test_a_run_that_starts_over_in_its_directory_starts_empty(tmp_path: Path) -> None:
    for _ in range(2):
        board = TensorBoard(tmp_path, Config(), ABOUT, 2, START)
        board.trained(progress(5))
        board.ended(5)
    assert [step for step, _ in scalars(tmp_path / "train")["learning/loss"]] == [5]


@pytest.mark.parametrize(
    ("tag", "step", "kept"),
    [
        ("learning/loss", 20, True),
        ("learning/loss", 21, False),
        ("learning_by_epoch/loss", 2, True),
        ("learning_by_epoch/loss", 3, False),
        ("learning_by_examples/loss", 200, True),
        ("learning_by_examples/loss", 201, False),
        ("config", 0, True),
        ("config", 20, False),
        ("_hparams_/session_end_info", 5, False),
    ],
)
def test_what_is_kept_is_told_by_the_axis_of_the_tag(tag: str, step: int, kept: bool) -> None:
    assert is_kept(tag, step, Place(20, 2, 200)) is kept


def test_a_stop_at_the_step_that_a_run_goes_on_from_gives_way_to_its_resumption(
    tmp_path: Path,
) -> None:
    for _ in range(3):  # stopped at once each time
        board = TensorBoard(tmp_path, Config(), ABOUT, 2, Place(20, 2, 200))
        board.stopping(20, "rank 1 was asked to stop")
        board.ended(20)
    train = scalars(tmp_path / "train")
    assert [step for step, _ in train["timeline/stopping"]] == [20]
    assert [step for step, _ in train["timeline/resumed"]] == [20]


def test_a_half_written_event_is_cut_off(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, Config(), ABOUT, 2, START)
    board.trained(progress(5))
    board.ended(5)
    (path,) = event_files(tmp_path / "train")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])
    keep_only(tmp_path / "train", lambda tag, step: True)
    assert path.read_bytes() == whole


def test_a_run_says_who_trains_and_how_far_it_came(tmp_path: Path) -> None:
    workers = "3 worker(s), 1 server(s), one coordinator"
    board = TensorBoard(tmp_path, Config(), ABOUT, 1, START, workers)
    board.epoch_ended(progress(20, 2), RESULTS)  # stopped early
    board.ended(20)
    assert workers in text(tmp_path / "train", "timeline_texts/started")
    told = f"2 of {Config().training.epochs} epochs trained"
    assert told in text(tmp_path / "train", "timeline_texts/finished")
