"""What a run of several labels shows: lines, tables, TensorBoard."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2

from app.config import Config
from app.data.batches import Batch
from app.data.heads import Head
from app.data.text.vocabulary import Vocabulary
from app.evaluation.results import Results
from app.evaluation.scores import Scores
from app.monitor.progress import Place, Progress
from app.monitor.tables import result_of_run
from app.monitor.tensorboard import TensorBoard
from app.monitor.tensorboard_samples import samples_of
from app.monitor.terminal import Terminal
from tests.single.monitor.event_values import GOODPUT, START, batch, images, scalars, text, values

HEADS = (Head("pet", ("cat", "dog")), Head("size", ("big", "tiny", "vast")))
ABOUT = {"kind": "image", "class_names": HEADS[0].class_names, "tokenizer": None, "heads": HEADS}
PET = Scores(np.array([[3, 1], [0, 4]]), 4.0)
SIZE = Scores(np.array([[1, 0, 0], [1, 0, 0], [0, 0, 2]]), 8.0)
RESULTS = Results({"pet": PET, "size": SIZE}, (1.0, 0.5))
METRICS = {"loss": 0.5, "accuracy": 0.9, "pet_loss": 0.4, "size_loss": 0.2}
METRICS |= {"pet_accuracy": 0.9, "size_accuracy": 0.25}
PROGRESS = Progress(1, 20, METRICS, 1234.5, 0.01, examples=200)


def test_results_are_those_of_the_first_label_and_the_weighted_sum_of_losses() -> None:
    assert RESULTS.accuracy == 7 / 8
    assert RESULTS.loss == pytest.approx(4 / 8 + 0.5 * 8 / 4)
    assert str(RESULTS) == "pet 87.50%, size 75.00%"
    assert str(Results({"label": PET})) == "87.50%"
    found = RESULTS.of_test(HEADS)
    assert found["test_recall"] == {"cat": 0.75, "dog": 1.0}
    assert found["test_heads"]["size"] == {
        "accuracy": 0.75,
        "loss": 2.0,
        "examples": 4,
        "recall": {"big": 1.0, "tiny": 0.0, "vast": 1.0},
    }
    assert "test_heads" not in Results({"label": PET}).of_test(HEADS[:1])


def test_a_label_of_no_example_has_no_number() -> None:
    nothing = Scores(np.zeros((3, 3), np.int64), 0.0)
    found = Results({"pet": PET, "size": nothing}, (1.0, 0.5)).of_test(HEADS)
    assert found["test_heads"]["size"]["accuracy"] is None
    assert found["test_loss"] == 0.5


def test_a_line_has_the_loss_of_all_and_the_accuracy_of_each(capsys) -> None:
    terminal = Terminal(epochs=1)
    terminal.began(0, 20)
    terminal.epoch_ended(PROGRESS, RESULTS)
    line = capsys.readouterr().out
    assert "loss 0.5000  accuracy pet 0.9000, size 0.2500  1,234 examples/s" in line
    assert "validation pet 87.50%, size 75.00%" in line


def test_the_result_has_a_line_for_all_labels(tmp_path: Path) -> None:
    more = {"examples_per_second": 1.0, "input_wait_share": 0.0, "input_wait_share_slowest": 0.0}
    more |= {"seconds": 1.0, "goodput": GOODPUT.to_json()}
    metrics = RESULTS.of_test(HEADS) | more | {"stragglers": []}
    shown = result_of_run(metrics, tmp_path, "none")
    assert shown["test accuracy"] == "pet 87.50% of 8, size 75.00% of 4, loss 1.5000"
    assert shown["hardest"] == "pet: cat 75%, dog 100%; size: tiny 0%, big 100%, vast 100%"


@pytest.fixture
def board(tmp_path: Path) -> TensorBoard:
    return TensorBoard(tmp_path, Config(), ABOUT, 2, START)


def test_each_label_has_curves_and_charts_for_them(board, tmp_path: Path) -> None:
    board.trained(PROGRESS)
    board.epoch_ended(PROGRESS, RESULTS)
    board.evaluated("test", Place(20, 1, 200), RESULTS)
    board.ended(20)
    for split, share in (("train", 0.25), ("validation", 0.75), ("test", 0.75)):
        found = scalars(tmp_path / split)
        assert found["learning/size_accuracy"] == [(20, pytest.approx(share))], split
    assert scalars(tmp_path / "test")["learning/loss"] == [(20, pytest.approx(1.5))]
    assert scalars(tmp_path / "test")["learning_by_epoch/size_loss"] == [(1, pytest.approx(2.0))]
    own = {tag: value for tag, _, value in values(tmp_path)}
    layout = layout_pb2.Layout.FromString(own["custom_scalars__config__"].tensor.string_val[0])
    titles = [chart.title for chart in layout.category[0].chart]
    assert {"accuracy of each label", "loss of each label"} <= set(titles)
    names = own["_hparams_/experiment"].metadata.plugin_data.content
    assert b"test accuracy, size" in names and b"validation accuracy, pet" in names


def test_each_label_has_its_own_report(board, tmp_path: Path) -> None:
    pixels = np.zeros((1, 8, 8, 1), np.uint8)
    for head, scores in zip(HEADS, RESULTS.heads.values(), strict=True):
        result = scores.to_json(list(head.class_names))
        true, other = head.class_names[:2]
        row = {"true": true, "predicted": other, "confidence": 0.75, "where": "5.png"}
        board.reported("test", 20, result | {"mistakes": [row]}, scores, pixels, head.name)
    board.ended(20)
    assert "| cat | 100.00% | 75.00% |" in text(tmp_path / "test", "report/pet/classes")
    assert "| tiny | - | 0.00% |" in text(tmp_path / "test", "report/size/classes")
    for head in ("pet", "size"):
        for tag in ("confusion", "reliability", "images_most_confidently_mistaken"):
            assert len(images(tmp_path / "test", f"report/{head}/{tag}")) == 1, tag


def test_samples_show_each_label_and_a_dash_for_a_missing_one(monkeypatch) -> None:
    captions: list[str] = []
    monkeypatch.setattr(
        "app.monitor.tensorboard_samples.contact_sheet",
        lambda images, texts: captions.extend(texts),
    )
    labels = tf.constant([[0, 2], [1, -1], [-1, 0]], tf.int64)
    samples_of(batch()._replace(labels=labels), ABOUT)
    assert captions == ["cat, vast", "dog, -", "-, big"]
    captions.clear()
    pets = tf.constant([[0.25, 0.75], [1.0, 0.0], [0.0, 0.0]])
    sizes = tf.constant([[1.0, 0, 0], [0, 0, 0], [0, 0.5, 0.5]])
    samples_of(batch()._replace(labels=labels, targets=(pets, sizes)), ABOUT)
    assert captions == ["dog 75%, cat 25%, big 100%", "cat 100%, -", "-, tiny 50%, vast 50%"]


def test_samples_of_texts_have_a_column_for_each_label() -> None:
    tokenizer = Vocabulary("words", 1, 9, ["good", "day"]).to_json()
    ids = tf.constant([[2, 3], [3, 0]], tf.int32)
    labels = tf.constant([[0, -1], [1, 2]], tf.int64)
    shown = samples_of(Batch(ids, labels), ABOUT | {"kind": "text", "tokenizer": tokenizer})
    assert "| pet | size | tokens |" in shown
    assert "| cat | - | good · day |" in shown and "| dog | vast | day |" in shown
