"""What a run shows in TensorBoard: its event files, read back."""

import dataclasses
import html
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from app.config import Config
from app.data.batches import Batch
from app.evaluation.figures import rank_time_figure
from app.monitor.event_files import event_files, events
from app.monitor.goodput import CAUSES, GoodputSummary
from app.monitor.progress import Place
from app.monitor.tensorboard import TensorBoard
from app.monitor.tensorboard_layout import CHARTS, METRICS
from app.monitor.tensorboard_samples import CAPTION_PIXELS, CELL_PIXELS
from app.monitor.timing import RankTimes
from tests.single.monitor.event_values import (
    ABOUT,
    GOODPUT,
    RESULTS,
    SCORES,
    START,
    batch,
    images,
    network,
    progress,
    reported,
    scalars,
    text,
    values,
)


@pytest.fixture
def board(tmp_path: Path) -> TensorBoard:
    return TensorBoard(tmp_path, Config(), ABOUT, 2, START)


def test_scalars_carry_the_optimizer_step_and_are_written_once(board, tmp_path: Path) -> None:
    board.trained(progress(20))
    board.trained(progress(40))
    board.epoch_ended(progress(41), RESULTS)
    board.evaluated("test", Place(41, 1, 410), RESULTS)
    board.ended(41)
    train = scalars(tmp_path / "train")
    assert train["learning/loss"] == [(20, pytest.approx(0.05)), (40, pytest.approx(0.025))]
    assert train["speed/examples_per_second"] == [(20, 1234.5), (40, 1234.5)]
    assert [step for step, _ in train["learning/learning_rate"]] == [20, 40]
    assert train["health/skipped_steps"] == [(20, 2), (40, 2)]
    assert train["learning_by_epoch/loss"] == [(1, pytest.approx(1 / 41))]
    assert train["learning_by_examples/loss"] == [(410, pytest.approx(1 / 41))]
    for split in ("validation", "test"):
        found = scalars(tmp_path / split)
        assert found["learning/loss"] == [(41, 0.5)]
        assert found["learning/accuracy"] == [(41, 0.875)]
        assert found["learning_by_epoch/accuracy"] == [(1, 0.875)]
        assert found["learning_by_examples/accuracy"] == [(410, 0.875)]


def test_the_step_is_shown_as_the_mean_and_the_slowest_rank_had_it(board, tmp_path: Path) -> None:
    board.trained(reported(20))
    board.ended(20)
    train = {name: points[0][1] for name, points in scalars(tmp_path / "train").items()}
    assert train["speed/step_mean_s_input"] == pytest.approx(0.075)
    assert train["speed/step_slowest_rank_s_compute"] == pytest.approx(0.4)
    assert train["speed/rank_skew"] == pytest.approx(0.45 / 0.425)
    assert train["health/update_to_weight_ratio"] == pytest.approx(0.01)
    assert train["health/memory_gb"] == pytest.approx(2.0)
    assert train["speed/compression_ratio"] == pytest.approx(2.0)
    ((height, width),) = images(tmp_path / "train", "speed/work_of_each_rank")
    assert height > 100 and width > 500


def test_without_validation_there_is_no_validation_curve(board, tmp_path: Path) -> None:
    board.epoch_ended(progress(41), None)
    assert not (tmp_path / "validation").exists()


def test_the_config_is_there_as_text(board, tmp_path: Path) -> None:
    board.ended(0)
    assert "learning_rate = 0.001" in text(tmp_path / "train", "config")


def test_events_are_marked_in_rows_of_their_own_and_new_kinds_get_new_rows(board, tmp_path) -> None:
    board.checkpointed(7, Path("step-00000001"), 0.25)
    board.marked(8, "resized", "3 ranks")
    board.agreed(9)
    board.ended(9, ValueError("replicas differ"))
    train = scalars(tmp_path / "train")
    rows = {name: points for name, points in train.items() if name.startswith("timeline/")}
    heights = [value for points in rows.values() for _, value in points]
    assert set(rows) == {f"timeline/{n}" for n in ("started", "checkpointed", "resized", "failed")}
    assert len(set(heights)) == len(heights)
    assert rows["timeline/resized"][0][0] == 8
    assert train["speed/checkpoint_s"] == [(7, 0.25)]
    assert train["health/lockstep_checks_passed"] == [(9, 1)]
    assert "replicas differ" in text(tmp_path / "train", "timeline_texts/failed")


def test_what_befalls_a_run_is_an_event_of_its_kind(board, tmp_path: Path) -> None:
    board.straggles(20, "rank 3 on gpu2 holds the others up")
    board.skipped(21, "rank 1: dense/kernel")
    board.skipped(25, "rank 0: dense/kernel")
    board.drifted(30, "rank 2 was repaired")
    board.stopping(40, "rank 1 was asked to stop")
    board.checkpointed(30, Path("step-00000030"), 0.1)  # written in the background since
    board.ended(40)
    train = scalars(tmp_path / "train")
    steps = {tag: [step for step, _ in points] for tag, points in train.items()}
    assert steps["timeline/straggles"] == [20] and steps["timeline/skipped"] == [21, 25]
    assert steps["timeline/drifted"] == [30] and steps["timeline/stopping"] == [40]
    assert steps["timeline/checkpointed"] == [30]
    assert "rank 3 on gpu2" in text(tmp_path / "train", "timeline_texts/straggles")
    # It goes on later: neither the timeline nor HParams may call it finished.
    assert "timeline/finished" not in train
    assert "_hparams_/session_end_info" not in {tag for tag, _, _ in values(tmp_path)}


def test_a_run_that_fails_while_it_stops_has_failed(board, tmp_path: Path) -> None:
    board.stopping(40, "rank 1 was asked to stop")
    board.ended(40, OSError("disk full"))
    assert "disk full" in text(tmp_path / "train", "timeline_texts/failed")
    assert "_hparams_/session_end_info" in {tag for tag, _, _ in values(tmp_path)}


def test_goodput_and_every_loss_are_curves(board, tmp_path: Path) -> None:
    for step, seconds in ((10, GOODPUT.seconds), (20, GOODPUT.seconds | {"steps": 16.0})):
        board.counted(step, GoodputSummary(seconds, 1))
    board.ended(20)
    train = scalars(tmp_path / "train")
    assert train["speed/goodput"] == [(10, 0.5), (20, pytest.approx(2 / 3))]
    lost = {tag.removeprefix("speed/lost_s_") for tag in train if "lost_s" in tag}
    assert lost == set(CAUSES)
    assert train["speed/lost_s_restart"] == [(10, 4.0), (20, 4.0)]


def test_what_happened_is_shown_as_it_was_said(board, tmp_path: Path) -> None:
    said = "no class <unk> in a|b: *_x_* is none,\nsee [1]"
    board.ended(1, ValueError(said))
    shown = markdown_to_safe_html(text(tmp_path / "train", "timeline_texts/failed"))
    assert html.unescape(shown) == f"<p>ValueError: {said.replace(chr(10), ' ')}</p>"


def test_an_evaluation_shows_classes_confusion_and_mistakes(board, tmp_path: Path) -> None:
    result = SCORES.to_json(ABOUT["class_names"])
    mistake = {"true": "cat", "predicted": "dog", "confidence": 0.75, "where": "cats/5.png"}
    result["mistakes"] = [mistake]
    board.reported("test", 41, result, SCORES, np.zeros((1, 8, 8, 1), np.uint8))
    board.ended(41)
    classes = text(tmp_path / "test", "report/classes")
    assert "| cat | 100.00% | 75.00% |" in classes
    assert "cats/5.png" in text(tmp_path / "test", "report/most_confident_mistakes")
    for tag in ("confusion", "reliability", "images_most_confidently_mistaken"):
        assert len(images(tmp_path / "test", f"report/{tag}")) == 1, tag


def test_a_tag_belongs_to_one_plugin(board, tmp_path: Path) -> None:
    # TensorBoard answers with an error where a text and an image share a tag.
    result = SCORES.to_json(ABOUT["class_names"]) | {"mistakes": []}
    board.reported("test", 41, result, SCORES, np.zeros((1, 8, 8, 1), np.uint8)[:0])
    board.sees(START, network(), batch())
    board.trained(reported(20))
    board.checkpointed(20, Path("step-00000001"), 0.1)
    board.ended(20)
    for folder in ("train", "test"):
        plugins: dict[str, set[str]] = {}
        for tag, _, value in values(tmp_path / folder):
            plugins.setdefault(tag, set()).add(value.metadata.plugin_data.plugin_name)
        assert {tag: names for tag, names in plugins.items() if len(names) > 1} == {}


def test_the_graph_and_samples_of_the_first_batch_are_shown(board, tmp_path: Path) -> None:
    board.sees(START, network(), batch())
    board.ended(0)
    ((height, width),) = images(tmp_path / "train", "samples/as_the_model_sees_them")
    assert (height, width) == (CELL_PIXELS + CAPTION_PIXELS, 4 * CELL_PIXELS)
    graphs = [
        event.graph_def
        for path in event_files(tmp_path / "train")
        for event in events(path)
        if event.WhichOneof("what") == "graph_def"
    ]
    assert len(graphs) == 1 and b"dense" in graphs[0]


def test_a_rank_without_an_example_shows_no_sample(board, tmp_path: Path) -> None:
    empty = Batch(tf.zeros((0, 8, 8, 1), tf.uint8), tf.zeros(0, tf.int64))
    board.sees(START, network(), empty)
    board.ended(0)
    assert images(tmp_path / "train", "samples/as_the_model_sees_them") == []


def test_histograms_have_weights_and_gradients_by_path(board, tmp_path: Path) -> None:
    arrays = {"dense/kernel": np.arange(6.0).reshape(2, 3)}
    board.distributions(5, arrays, {"dense/kernel": np.ones((2, 3))})
    board.ended(5)
    found = {
        tag: tf.make_ndarray(value.tensor)
        for tag, _, value in values(tmp_path / "train")
        if value.metadata.plugin_data.plugin_name == "histograms"
    }
    assert set(found) == {"weights/dense/kernel", "gradients/dense/kernel"}
    assert found["weights/dense/kernel"][:, 2].sum() == 6


def test_every_chart_of_the_layout_and_every_metric_of_hparams_has_data(board, tmp_path) -> None:
    board.trained(reported(20))
    board.checkpointed(20, Path("step-00000001"), 0.1)
    board.agreed(20)
    board.counted(20, GOODPUT)
    board.epoch_ended(progress(21), RESULTS)
    board.evaluated("test", Place(21, 1, 210), RESULTS)
    board.ended(21)
    written = {run: set(scalars(tmp_path / run)) for run in ("train", "validation", "test")}
    tags = set().union(*written.values())
    for charts in CHARTS.values():
        for name, pattern in charts.items():
            assert any(re.fullmatch(pattern, tag) for tag in tags), name
    for run, tag, _ in METRICS:
        assert tag in written[run]
    own = {tag: value for tag, _, value in values(tmp_path)}
    layout = layout_pb2.Layout.FromString(own["custom_scalars__config__"].tensor.string_val[0])
    assert [category.title for category in layout.category] == list(CHARTS)
    start = own["_hparams_/session_start_info"].metadata.plugin_data.content
    hparams = HParamsPluginData.FromString(start).session_start_info.hparams
    assert hparams["learning_rate"].number_value == 0.001
    assert hparams["world_size"].number_value == 2
    assert "_hparams_/session_end_info" in own


def test_work_of_ranks_that_come_and_go_is_one_figure(board, tmp_path: Path, monkeypatch) -> None:
    tables = []
    monkeypatch.setattr(
        "app.evaluation.figures.rank_time_figure",
        lambda table, steps: tables.append((table, steps)) or rank_time_figure(table, steps),
    )
    for step, ranks in ((20, 2), (40, 3), (60, 1)):
        table = np.tile([10, 5.0, 1.0, 3.0, 1.0], (ranks, 1))
        board.trained(dataclasses.replace(progress(step), times=RankTimes.of(table)))
    board.ended(60)
    ((table, steps),) = tables
    assert steps == (20, 40, 60) and table.shape == (3, 3)
    assert np.isnan(table).tolist() == [
        [False, False, False],
        [False, False, True],
        [True, False, True],
    ]
    assert len(images(tmp_path / "train", "speed/work_of_each_rank")) == 1


def test_a_rank_alone_has_no_figure_of_ranks(board, tmp_path: Path) -> None:
    board.trained(dataclasses.replace(progress(20), times=RankTimes.of(np.ones((1, 5)))))
    board.ended(20)
    assert not images(tmp_path / "train", "speed/work_of_each_rank")


def test_a_change_of_ranks_is_an_event(board, tmp_path: Path) -> None:
    board.resized(30, "goes on as rank 0 of 2, which was rank 1 of 3, from step 30")
    board.ended(40)
    assert [step for step, _ in scalars(tmp_path / "train")["timeline/resized"]] == [30]


def test_what_was_reported_is_on_the_disk_at_once(board, tmp_path: Path) -> None:
    board.trained(progress(20))
    assert [step for step, _ in scalars(tmp_path / "train")["learning/loss"]] == [20]


def test_another_board_goes_on_where_one_was_closed(board, tmp_path: Path) -> None:
    for step in (10, 20, 30):
        board.trained(progress(step))
    board.closed()
    again = TensorBoard(tmp_path, Config(), ABOUT, 2, Place(20, 2, 200))
    again.resized(20, "goes on as rank 0 of 2, which was rank 0 of 3, from step 20")
    again.trained(progress(30))
    again.ended(30)
    assert [step for step, _ in scalars(tmp_path / "train")["learning/loss"]] == [10, 20, 30]
    assert [step for step, _ in scalars(tmp_path / "train")["timeline/resized"]] == [20]
