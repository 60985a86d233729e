"""Pictures as people have them, in a run: every command sees in a file what people see."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from app.__main__ import main
from app.commands.evaluate_run import evaluate_run
from app.commands.export_model import export
from app.commands.predict_inputs import Item
from app.commands.predictor import Predictor
from app.commands.saved_run import open_run
from app.data.images import decode_images
from app.distributed.world import World
from app.load import load_data
from tests.single.data.field_pictures import NAMED, RED, colors, difference, glyph, on, only, png
from tests.single.data.pictures import encode

ODD = ("JPEG, orientation 3", "PNG, black on transparent", "WebP, transparent")


def write_odd(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"odd {number}.{name[:4].strip(',')}" for number, name in enumerate(ODD)]
    for path, name in zip(paths, ODD, strict=True):
        path.write_bytes(NAMED[name][0])
    return paths


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on `pictures`, where a turned JPEG, a transparent PNG and a transparent
    WebP are among others, and transparent is red."""
    root = tmp_path_factory.mktemp("field")
    write_odd(root / "pictures" / "class 0")
    for label, pixels in enumerate((colors(), colors()[::-1])):
        folder = root / "pictures" / f"class {label}"
        folder.mkdir(exist_ok=True)
        for number in range(20):
            (folder / f"{number}.png").write_bytes(encode(pixels + np.uint8(number), "PNG"))
    flags = ["--image-size=16", "--background=#ff0000", "--epochs=2", "--width=4"]
    run = ["train", "--run-dir", str(root / "run"), "--dataset", str(root / "pictures")]
    assert main([*run, *flags, "--per-rank-batch-size=4"]) == 0
    return root


@pytest.mark.full_matrix
def test_training_evaluation_prediction_and_export_agree_on_what_a_picture_is(
    trained: Path, tmp_path: Path
) -> None:
    run = open_run(trained / "run")
    odd = write_odd(tmp_path / "odd" / "class 0")
    turned = only(NAMED["JPEG, orientation 1"][0])[::-1, ::-1]
    glyph_on_red = np.asarray(on(RED, glyph()), np.uint8)
    shown = [encode(pixels, "PNG") for pixels in (turned, glyph_on_red, glyph_on_red)]
    pixels, _ = decode_images(shown, run.image_spec)
    network = run.classifier
    wanted = tf.nn.softmax(network(pixels, training=False)).numpy()
    ignorant, _ = decode_images([png(), png(pixels=glyph()[..., :3])], run.image_spec)
    other = tf.nn.softmax(network(ignorant, training=False)).numpy()
    assert np.abs(other - wanted[:2]).max(axis=1).min() > 1e-3  # or this test shows nothing

    for hold in ("memory", "stream"):
        plan = dataclasses.replace(run.plan, stream=hold == "stream")
        splits = load_data(run.config, World(), plan).splits.values()
        held = [one for s in splits for one in s.inputs(np.arange(len(s)), 0).numpy()]
        for one in pixels:
            assert min(difference(here, one) for here in held) <= 1, hold
    answers = Predictor(run)([Item(str(path), None) for path in odd])
    predicted = [[one["probabilities"][name] for name in run.class_names] for one in answers]
    np.testing.assert_allclose(predicted, wanted, atol=1e-4)
    data = {"dataset": str(tmp_path / "odd")}
    scores = evaluate_run(run.directory, data, None, tmp_path / "scores", World())
    assert scores["loss"] == pytest.approx(-np.log(wanted[:, 0]).mean(), abs=1e-3)
    path = export(run.directory, "savedmodel", None, None)
    serve = tf.saved_model.load(path).signatures["serving_default"]
    served = serve(inputs=tf.constant([one.read_bytes() for one in odd]))["probabilities"]
    np.testing.assert_allclose(served, predicted, atol=1e-5)
    card = path.with_name("savedmodel.md").read_text()
    assert "turned upright as their EXIF data say" in card and "lies on #ff0000" in card


def test_another_background_is_another_run(trained: Path, capsys) -> None:
    flags = ["--dataset", str(trained / "pictures"), "--image-size=16", "--resume"]
    code = main(["train", "--run-dir", str(trained / "run"), *flags, "--background=blue"])
    assert code == 2
    assert "background" in capsys.readouterr().err


def test_data_counts_what_is_turned_and_what_is_transparent(trained: Path, capsys) -> None:
    assert main(["data", str(trained / "pictures")]) == 0
    shown = capsys.readouterr().out
    assert "turned upright as their EXIF data say: 1 images" in shown
    assert "with transparency, shown on the colour of --background: 2 images" in shown
