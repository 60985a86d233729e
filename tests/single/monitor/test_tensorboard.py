"""What a run shows in TensorBoard: its event files, read back."""

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from app.config import Config
from app.data.batches import Batch
from app.data.text.vocabulary import Vocabulary
from app.distributed.telemetry import StepFacts
from app.evaluation.scores import Mistake, Scores
from app.monitor.event_files import event_files, events, keep_only
from app.monitor.progress import Place, Progress
from app.monitor.tensorboard import TensorBoard, is_kept
from app.monitor.tensorboard_layout import CHARTS, METRICS
from app.monitor.tensorboard_samples import CAPTION_PIXELS, CELL_PIXELS, contact_sheet, samples_of
from app.monitor.timing import RankTimes

SCORES = Scores(np.array([[3, 1], [0, 4]]), 4.0, mistakes=(Mistake(5, 0, 1, 0.75),))
ABOUT = {"kind": "image", "class_names": ["cat", "dog"], "tokenizer": None}
START = Place(0, 0, 0)


def progress(step: int, epoch: int = 1) -> Progress:
    metrics = {"loss": 1.0 / step, "accuracy": 0.5}
    return Progress(epoch, step, metrics, 1234.5, 0.01, examples=step * 10, skipped_steps=2)


def reported(step: int) -> Progress:
    """Progress with all that two ranks report."""
    table = np.array([[10, 5.0, 1.0, 3.0, 1.0], [10, 5.0, 0.5, 4.5, 0.5]])
    return dataclasses.replace(
        progress(step),
        times=RankTimes.of(table),
        memory_bytes=np.array([1e9, 2e9]),
        facts=StepFacts(3.0, 10.0, 0.1, 0.25),
        loss_scale=1024.0,
        bytes_sent=2e6,
        bytes_uncompressed=4e6,
    )


def values(folder: Path) -> list[tuple[str, int, Any]]:
    """(tag, step, summary value) of all event files of a folder, in the order written."""
    return [
        (value.tag, event.step, value)
        for path in event_files(folder)
        for event in events(path)
        for value in event.summary.value
    ]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar, in the order written."""
    found: dict[str, list[tuple[int, float]]] = {}
    for tag, step, value in values(folder):
        if value.metadata.plugin_data.plugin_name == "scalars":
            found.setdefault(tag, []).append((step, float(tf.make_ndarray(value.tensor))))
    return found


def text(folder: Path, tag: str) -> str:
    (found,) = (value for name, _, value in values(folder) if name == tag)
    return found.tensor.string_val[0].decode()


def images(folder: Path, tag: str) -> list[tuple[int, int]]:
    """(height, width) of the images under a tag."""
    found = [value.tensor.string_val for name, _, value in values(folder) if name == tag]
    return [tf.io.decode_png(png).shape[:2] for strings in found for png in strings[2:]]


@pytest.fixture
def board(tmp_path: Path) -> TensorBoard:
    return TensorBoard(tmp_path, Config(), ABOUT, 2, START)


def test_scalars_carry_the_optimizer_step_and_are_written_once(board, tmp_path: Path) -> None:
    board.trained(progress(20))
    board.trained(progress(40))
    board.epoch_ended(progress(41), SCORES)
    board.evaluated("test", Place(41, 1, 410), SCORES)
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
    board.checkpointed(7, Path("epoch-0001"), 0.25)
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
    board.checkpointed(20, Path("epoch-0001"), 0.1)
    board.ended(20)
    for folder in ("train", "test"):
        plugins: dict[str, set[str]] = {}
        for tag, _, value in values(tmp_path / folder):
            plugins.setdefault(tag, set()).add(value.metadata.plugin_data.plugin_name)
        assert {tag: names for tag, names in plugins.items() if len(names) > 1} == {}


def network() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))


def batch(targets: Any = None) -> Batch:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    return Batch(tf.constant(pixels), tf.constant([0, 1, 1], tf.int64), targets=targets)


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


def test_an_image_is_enlarged_under_its_caption_with_its_pixels_as_they_are() -> None:
    image = np.array([[0, 255], [255, 0]], np.uint8)[..., None]
    sheet = contact_sheet(np.stack([image, 255 - image]), ["one", "a caption that is far too long"])
    cell = sheet[CAPTION_PIXELS : CAPTION_PIXELS + 124, 2:126]
    assert cell.shape == (124, 124, 3)
    assert (cell[:62, :62] == 0).all() and (cell[:62, 62:] == 255).all()
    assert (sheet[:CAPTION_PIXELS] < 128).any()  # something is written there
    assert (sheet[:CAPTION_PIXELS, 2 * CELL_PIXELS - 2 :] == 255).all()  # and ends in its cell


def test_texts_are_shown_as_the_tokens_that_the_model_reads() -> None:
    tokenizer = Vocabulary("words", 1, 9, ["good", "day"]).to_json()
    about = {"kind": "text", "class_names": ["a|b", "c"], "tokenizer": tokenizer}
    ids = tf.constant([[2, 3, 0], [1, 2, 3]], tf.int32)
    shown = samples_of(Batch(ids, tf.constant([0, 1], tf.int64)), about)
    assert "good · day |" in shown and "\\[unknown\\] · good · day" in shown
    assert "a\\|b" in shown


def test_blends_are_captioned_with_their_shares(monkeypatch) -> None:
    captions: list[str] = []
    monkeypatch.setattr(
        "app.monitor.tensorboard_samples.contact_sheet",
        lambda images, texts: captions.extend(texts),
    )
    targets = tf.constant([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    samples_of(batch(targets), ABOUT)
    assert captions == ["dog 75%, cat 25%", "cat 100%", "cat 50%, dog 50%"]


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
    board.checkpointed(20, Path("epoch-0001"), 0.1)
    board.agreed(20)
    board.epoch_ended(progress(21), SCORES)
    board.evaluated("test", Place(21, 1, 210), SCORES)
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


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    def train(place: Place, steps: range) -> None:
        board = TensorBoard(tmp_path, Config(), ABOUT, 2, place)
        for step in steps:
            board.trained(progress(step))
            if step % 10 == 0:
                board.epoch_ended(progress(step, step // 10), SCORES)
                board.checkpointed(step, Path("epoch"), 0.1)
        board.evaluated("test", Place(30, 3, 300), SCORES)
        board.ended(30)

    train(START, range(1, 28))  # killed in the third epoch
    for _ in range(2):  # and resumed twice from the second
        train(Place(20, 2, 200), range(21, 31))
    wanted = list(range(1, 31))
    for run, tag, steps in (
        ("train", "learning/loss", wanted),
        ("train", "speed/examples_per_second", wanted),
        ("train", "learning_by_epoch/loss", [1, 2, 3]),
        ("validation", "learning_by_examples/loss", [100, 200, 300]),
        ("validation", "learning/loss", [10, 20, 30]),
        ("train", "timeline/checkpointed", [10, 20, 30]),
        ("train", "timeline/started", [0]),
        ("train", "timeline/resumed", [20]),
        ("train", "timeline/finished", [30]),
        ("test", "learning/loss", [30]),
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


def test_a_half_written_event_is_cut_off(board, tmp_path: Path) -> None:
    board.trained(progress(5))
    board.ended(5)
    (path,) = event_files(tmp_path / "train")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])
    keep_only(tmp_path / "train", lambda tag, step: True)
    assert path.read_bytes() == whole
