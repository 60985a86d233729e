"""Exports of runs of two labels: outputs and class names for each, calibrated or not."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.commands.calibrate_run import calibrate_run
from app.commands.export_model import export
from app.commands.saved_run import open_run
from app.data.batches import padded
from app.distributed.world import World
from models.heads import plain_name
from tests.single.commands.heads_runs import image_run, text_run

pytestmark = pytest.mark.full_matrix  # slow: CI runs it


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return image_run(tmp_path_factory.mktemp("images"))


def test_a_savedmodel_of_texts_has_named_outputs_for_each_label(tmp_path: Path) -> None:
    path = text_run(tmp_path)
    temperatures = calibrate_run(path, World())["temperatures"]
    model = tf.saved_model.load(str(export(path, "savedmodel", None, None)))
    run, texts = open_run(path), ["a b c buy", "d e f thank"]
    said = model.signatures["serving_default"](inputs=tf.constant(texts))
    assert set(said) == {f"{head}_{what}" for head in ("intent", "domain") for what in OUTPUTS}
    ids = padded(run.tokenizer.encode(np.array(texts, object))[0])
    logits = run.classifier.network(ids, training=False)
    assets = path / "export" / "savedmodel" / "assets"
    for head, of_head in zip(run.heads, logits, strict=True):
        expected = tf.nn.softmax(of_head / temperatures[head.name])
        np.testing.assert_allclose(said[f"{head.name}_probabilities"], expected, atol=1e-5)
        names = json.loads((assets / f"{head.name}_class_names.json").read_text())
        assert names == list(head.class_names)
        labels = [names[number] for number in said[f"{head.name}_class"].numpy()]
        assert [one.decode() for one in said[f"{head.name}_label"].numpy()] == labels
    assert said["intent_label"].numpy().tolist() == [b"buy", b"thank"]
    card = (path / "export" / "savedmodel.md").read_text()
    assert "2 labels of texts" in card and "- classes of domain: " in card
    assert "`domain_probabilities` float32 (B, 2)" in card
    assert 'print(answer["domain_label"], answer["domain_class"]' in card
    assert "logits are divided by" in card and "| test_accuracy, domain |" in card
    assert card.count("largest difference in a probability") == 2


OUTPUTS = ("probabilities", "class", "label")


@pytest.mark.parametrize("format", ["keras", "tflite", "savedmodel"])
def test_images_are_exported_with_both_labels(images: Path, format: str) -> None:
    path = export(images, format, None, None)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    if format == "keras":
        said = keras.models.load_model(path)(pixels)
    elif format == "tflite":
        said = tf.lite.Interpreter(str(path)).get_signature_runner("serving_default")(inputs=pixels)
    else:
        signatures = tf.saved_model.load(str(path)).signatures
        said = signatures["serving_arrays"](inputs=tf.constant(pixels))
    run = open_run(images)
    logits = run.classifier.network(tf.constant(pixels), training=False)
    for head, of_head in zip(run.heads, logits, strict=True):
        name = plain_name(head.name)
        shares = np.asarray(said[f"{name}_probabilities"])
        np.testing.assert_allclose(shares, tf.nn.softmax(of_head), atol=1e-5)
        assert np.asarray(said[f"{name}_class"]).tolist() == shares.argmax(1).tolist()
