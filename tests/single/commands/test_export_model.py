"""Exports of runs: the same answers without Lockstep's code, or a refusal that says why."""

import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.__main__ import main
from app.checkpoints.checkpoint import Checkpoints
from app.checkpoints.snapshot import Snapshot
from app.commands import export_model as export_module
from app.commands.export_model import export
from app.commands.saved_run import open_run
from app.errors import UserError

pytestmark = pytest.mark.full_matrix  # slow: CI runs it

IMAGES = "synthetic-image:examples=200,size=16,classes=3"
TEXTS = "synthetic-text:examples=200,classes=3"
RUNS: dict[str, list[str]] = {
    "cnn": ["--dataset", IMAGES, "--model=cnn", "--width=4", "--dropout=0.2"],
    "resnet20": ["--dataset", IMAGES, "--model=resnet20", "--width=4"],
    "airbench": ["--dataset", IMAGES, "--model=airbench", "--width=4"],
    "mixed_float16": ["--dataset", IMAGES, "--model=cnn", "--precision=mixed_float16"],
    "bag": ["--dataset", TEXTS, "--model=bag", "--width=4", "--ngrams=2"],
    "transformer": ["--dataset", TEXTS, "--model=transformer", "--width=8", "--max-tokens=12"],
    "mixed_bfloat16": ["--dataset", TEXTS, "--model=transformer", "--width=8"]
    + ["--precision=mixed_bfloat16"],
    "textcnn": ["--dataset", "CHINESE", "--model=textcnn", "--width=4", "--vocabulary-size=80"],
    "characters": ["--dataset", "CHINESE", "--model=bag", "--width=4", "--tokens=characters"],
}
GOOD, POOR = "好喜欢美味高兴棒赞优秀完美", "坏讨厌难吃生气差烂糟糕失望"
ODD_TEXTS = ["", "w1", "Élève ＷＩＤＥ w2", "w1 " * 100, "你好，世界。好吃！", "🎉\n\tw0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a run of one epoch, by its name in RUNS; each is trained once."""
    root = tmp_path_factory.mktemp("runs")

    @functools.cache
    def train(name: str) -> Path:
        chinese = root / "chinese.csv"
        chance = random.Random(0)
        rows = [
            f"{''.join(chance.choices(k, k=6))}。,{label}"
            for k, label in [(GOOD, "好评"), (POOR, "差评")] * 60
        ]
        chinese.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
        flags = [str(chinese) if flag == "CHINESE" else flag for flag in RUNS[name]]
        assert main(["train", "--run-dir", str(root / name), "--epochs=1", *flags]) == 0
        keras.config.set_dtype_policy("float32")
        return root / name

    return train


@pytest.fixture(scope="module")
def exported(run: Callable[[str], Path]) -> Callable[..., Path]:
    """An export of a run under its default name; each is made once."""

    @functools.cache
    def make(name: str, format: str, quantize: str | None = None) -> Path:
        return export(run(name), format, None, quantize)

    return make


def left_behind(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def expected(directory: Path, inputs: np.ndarray) -> np.ndarray:
    """The run's own probabilities for uint8 images, or texts as an object array of str."""
    opened = open_run(directory)
    ready = opened.tokenizer.encode(inputs)[0].to_tensor() if opened.kind == "text" else inputs
    return tf.nn.softmax(opened.classifier(ready, training=False)).numpy()


def images(number: int, shape: tuple[int, int, int] = (16, 16, 3)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (number, *shape), dtype=np.uint8)


@pytest.mark.parametrize("name", ["cnn", "resnet20"])
def test_a_savedmodel_of_images_takes_files_and_arrays_one_or_many(
    name: str, run: Callable[[str], Path], exported: Callable[..., Path]
) -> None:
    model = tf.saved_model.load(exported(name, "savedmodel"))
    for number in (1, 5):
        pixels = images(number)
        wanted = expected(run(name), pixels)
        files = tf.constant([tf.io.encode_png(image).numpy() for image in pixels])
        for signature, inputs in (("serving_default", files), ("serving_arrays", pixels)):
            answer = model.signatures[signature](inputs=tf.constant(inputs))
            np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-5)
            assert answer["class"].numpy().tolist() == wanted.argmax(1).tolist()
            assert answer["label"].numpy().tolist() == [
                f"class {place}".encode() for place in wanted.argmax(1)
            ]
    names = json.loads(Path(model.class_names.asset_path.numpy().decode()).read_text())
    assert names == ["class 0", "class 1", "class 2"]


def test_image_files_of_another_size_are_fitted_as_in_training(
    run: Callable[[str], Path], exported: Callable[..., Path]
) -> None:
    model = tf.saved_model.load(exported("cnn", "savedmodel"))
    small = images(1)
    large = np.repeat(np.repeat(small, 2, axis=1), 2, axis=2)
    serve = model.signatures["serving_default"]
    answer = serve(inputs=tf.constant([tf.io.encode_png(large[0]).numpy()]))
    fitted = tf.cast(tf.round(tf.image.resize(large, (16, 16), antialias=True)), tf.uint8)
    wanted = expected(run("cnn"), fitted.numpy())
    np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-5)


def test_a_keras_file_takes_arrays_of_any_number(
    run: Callable[[str], Path], exported: Callable[..., Path]
) -> None:
    model = keras.models.load_model(exported("resnet20", "keras"))
    assert not [layer for layer in model.layers if not type(layer).__module__.startswith("keras.")]
    pixels = images(40)
    answer = model.predict(pixels, verbose=0)
    np.testing.assert_allclose(
        answer["probabilities"], expected(run("resnet20"), pixels), atol=1e-5
    )
    assert answer["class"].dtype == np.int64
    assert answer["label"].tolist() == [f"class {i}".encode() for i in answer["class"]]


def test_a_tflite_file_takes_arrays_of_any_number(
    run: Callable[[str], Path], exported: Callable[..., Path]
) -> None:
    path = exported("resnet20", "tflite")
    runner = tf.lite.Interpreter(str(path)).get_signature_runner("serving_default")
    for number in (1, 5):
        answer = runner(inputs=images(number))
        wanted = expected(run("resnet20"), images(number))
        np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-4)
        assert answer["label"].tolist() == [f"class {i}".encode() for i in wanted.argmax(1)]


@pytest.mark.parametrize("quantize", ["float16", "int8"])
def test_quantised_weights_are_smaller_and_what_they_cost_is_in_the_card(
    quantize: str, exported: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    path = exported("resnet20", "tflite", quantize)
    assert path.name == f"model-{quantize}.tflite"
    assert path.stat().st_size < exported("resnet20", "tflite").stat().st_size
    card = path.with_name(f"{path.name}.md").read_text()
    assert f"quantised to {quantize}" in card and "accuracy on 20 of 20 in test" in card
    assert "accuracy on 20 of 20 in test" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["bag", "transformer", "textcnn", "characters"])
def test_a_savedmodel_of_texts_takes_strings_one_or_many(
    name: str, run: Callable[[str], Path], exported: Callable[..., Path]
) -> None:
    model = tf.saved_model.load(exported(name, "savedmodel"))
    serve, texts = model.signatures["serving_default"], np.array(ODD_TEXTS, dtype=object)
    names = json.loads((run(name) / "data_plan" / "plan.json").read_text())["class_names"]
    for part in (texts, *(texts[i : i + 1] for i in range(len(texts)))):
        answer, wanted = serve(inputs=tf.constant(part)), expected(run(name), part)
        np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-5)
        assert [label.decode() for label in answer["label"].numpy()] == [
            names[place] for place in answer["class"]
        ]


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_a_run_in_mixed_precision_is_exported_in_float32_and_the_card_says_so(
    name: str, exported: Callable[..., Path]
) -> None:
    model = tf.saved_model.load(exported(name, "savedmodel"))
    graph = model.signatures["serving_default"].graph
    low = {tf.float16, tf.bfloat16}
    assert not [op.name for op in graph.get_operations() for x in op.outputs if x.dtype in low]
    card = exported(name, "savedmodel").with_name("savedmodel.md").read_text()
    assert f"Trained in {name}, exported in float32" in card


def test_the_card_tells_data_results_world_versions_and_config(
    run: Callable[[str], Path], exported: Callable[..., Path]
) -> None:
    path = exported("characters", "savedmodel")
    assert path == run("characters") / "export" / "savedmodel"
    card = path.with_name("savedmodel.md").read_text(encoding="utf-8")
    about = json.loads((run("characters") / "data_plan" / "plan.json").read_text())
    metrics = json.loads((run("characters") / "metrics.json").read_text())
    for part in (
        about["fingerprint"],
        f"{about['examples']['train']} train",
        "好评",
        f"| test_accuracy | {metrics['test_accuracy']:.4g} |",
        "world: 1 rank(s)",
        f"tensorflow {tf.__version__}",
        f"checkpoint step-{metrics['step']:08d}",
        'tokens = "characters"',
        "| `serving_default` | `inputs`: string (B,), UTF-8 |",
        "Reads the first 256 characters",
        "32 rows",
    ):
        assert part in card, part


def test_the_card_of_another_checkpoint_says_of_which_the_results_are(
    run: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run("characters"), tmp_path / "copy"))
    checkpoints = Checkpoints(copy / "checkpoints", 2)
    arrays, meta, _ = checkpoints.newest()[1]
    newest, other = checkpoints.list()[-1].name, meta["step"] - 1
    about = json.dumps({**meta, "step": other}).encode()
    checkpoints.write(Snapshot(other, arrays, about))
    for name, foreign in ((newest, False), (f"step-{other:08d}", True)):
        path = export(copy, "savedmodel", tmp_path / name, None, name)
        card = path.with_name(f"{name}.md").read_text(encoding="utf-8")
        assert f"checkpoint {name}, step" in card
        assert (f"of the end of the run, but this export is checkpoint {name}" in card) == foreign


@pytest.mark.parametrize(
    ("name", "format", "reason"),
    [
        ("bag", "keras", "a model of texts, and"),
        ("bag", "tflite", "a model of texts, and"),
        ("airbench", "keras", "not Keras' own .*WithViews"),
    ],
)
def test_formats_that_cannot_hold_a_model_are_refused_with_the_reason(
    name: str, format: str, reason: str, run: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"{reason}.*: use --format savedmodel"):
        export(run(name), format, tmp_path / f"model.{format}", None)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("format", "name", "message"),
    [
        ("keras", "model.h5", r"model.h5: the name of a keras export ends with .keras"),
        ("savedmodel", "taken", "taken exists already: remove it, or give another --output"),
        ("savedmodel", "carded", "carded.md exists already"),
        ("savedmodel", "taken/model", "cannot write .*taken/model: "),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(
    format: str,
    name: str,
    message: str,
    run: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "carded.md").write_text("mine")
    with pytest.raises(UserError, match=message) as error:
        export(run("cnn"), format, tmp_path / name, None)
    assert "\n" not in str(error.value)
    assert left_behind(tmp_path) == ["carded.md", "taken"]
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_run_without_a_checkpoint_is_refused(run: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("config.toml", "data_plan/plan.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((run("cnn") / name).read_text())
    with pytest.raises(UserError, match="holds no checkpoint"):
        export(tmp_path, "keras", None, None)
    with pytest.raises(UserError, match="holds no run"):
        export(tmp_path / "nothing", "keras", None, None)
    assert left_behind(tmp_path) == ["config.toml", "data_plan"]


def test_an_export_with_other_predictions_is_not_kept(
    run: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export_module._write_keras

    def write_wrong(opened, network, path) -> None:
        copy = keras.models.clone_model(network)
        copy.set_weights([1.01 * weight for weight in network.get_weights()])
        write(opened, copy, path)

    monkeypatch.setattr(export_module, "_write_keras", write_wrong)
    with pytest.raises(UserError, match="gives other answers than the run"):
        export(run("cnn"), "keras", tmp_path / "model.keras", None)
    assert left_behind(tmp_path) == []


def test_an_export_that_needs_lockstep_is_not_kept(
    run: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        export_module, "_write_keras", lambda opened, network, path: network.save(path)
    )
    with pytest.raises(UserError, match="cannot be loaded and called again: ") as error:
        export(run("cnn"), "keras", tmp_path / "model.keras", None)
    assert "\n" not in str(error.value)
    assert left_behind(tmp_path) == []
