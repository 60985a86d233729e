"""Predictions of images: those of evaluation, and what is wrong with each file in its place."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.commands.predict import predict
from app.commands.predict_inputs import Item
from app.commands.predictor import Predictor
from app.commands.saved_run import SavedRun, open_run
from app.distributed.world import World
from app.errors import UserError
from app.evaluation.evaluate import evaluate
from tests.single.commands.predicting import (
    answers,
    confusion,
    errors,
    loss,
    own_data,
    save,
    trained,
)

pytestmark = pytest.mark.full_matrix  # slow: CI runs it

DIGITS = {"dataset": "digits", "width": 4, "epochs": 8, "learning_rate": 0.05}
GOLDEN_CLASSES = list("378960")
GOLDEN_PROBABILITIES = [0.9999, 0.9956, 0.9452, 0.8560, 0.8130, 0.9995]


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "digits", **DIGITS)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A run on images that are not square."""
    root = tmp_path_factory.mktemp("wide")
    for label, name in enumerate(("dark", "light")):
        (root / "data" / name).mkdir(parents=True)
        for number in range(20):
            save(root / "data" / name / f"{number}.png", 180 * label + number, (12, 9))
    return trained(root / "run", dataset=str(root / "data"), width=4, epochs=1, global_batch_size=8)


def digits_as_files(run: SavedRun, folder: Path) -> np.ndarray:
    """Writes the test split as PNG files; returns its labels."""
    source = own_data(run).dataset.splits["test"]
    folder.mkdir()
    for number, pixels in enumerate(source.read(np.arange(len(source)))):
        Image.fromarray(pixels[..., 0]).save(folder / f"{number:04}.png")
    return source.labels


def test_images_are_predicted_as_in_evaluation(digits: Path, tmp_path: Path) -> None:
    run = open_run(digits)
    labels = digits_as_files(run, tmp_path / "files")
    scores = evaluate(run.classifier, own_data(run).splits["test"], World()).first
    code, found = answers(tmp_path, digits, tmp_path / "files", batch_size=50)
    assert code == 0
    assert np.array_equal(confusion(found, labels, run.class_names), scores.confusion)
    assert loss(found, labels, run.class_names) == pytest.approx(scores.loss, abs=1e-5)
    assert 0.5 < scores.accuracy < 1  # or every model would do


def test_the_first_test_digits_give_what_they_gave(digits: Path, tmp_path: Path) -> None:
    digits_as_files(open_run(digits), tmp_path / "files")
    files = sorted((tmp_path / "files").iterdir())[:6]
    found = answers(tmp_path, digits, *files)[1]
    assert [one["class"] for one in found] == GOLDEN_CLASSES
    given = [one["probability"] for one in found]
    # Other processors add in another order, and training makes more of it.
    assert given == pytest.approx(GOLDEN_PROBABILITIES, abs=0.05)


def test_probabilities_are_of_the_top_classes_the_most_probable_first(digits, tmp_path) -> None:
    path = save(tmp_path / "a.png", 200)
    every = answers(tmp_path, digits, path)[1][0]
    assert set(every) == {"input", "class", "probability", "probabilities"}
    assert every["input"] == path
    assert set(every["probabilities"]) == set("0123456789")
    assert sum(every["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    values = list(every["probabilities"].values())
    assert values == sorted(values, reverse=True)
    assert next(iter(every["probabilities"].items())) == (every["class"], every["probability"])
    for top in (1, 3, 99):
        found = answers(tmp_path, digits, path, top=top)[1][0]
        wanted = list(every["probabilities"].items())[:top]
        assert list(found["probabilities"].items()) == wanted


def test_what_is_wrong_with_a_file_is_said_in_its_place(digits, tmp_path, capsys) -> None:
    good = save(tmp_path / "good.png", 90)
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
    Image.fromarray(noise).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:-300])
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    cmyk = save(tmp_path / "four.jpg", 90, mode="CMYK")
    deep = save(tmp_path / "deep.png", 90, mode="I;16")
    frames = [Image.new("L", (8, 8), grey) for grey in (10, 200)]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "none").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    names = ["cut.png", "zero.png", "text.png", "moves.gif", "none", "pipe.png", "gone.png"]
    inputs = [good, cmyk, deep, *(tmp_path / name for name in names), good]
    for batch_size in (1, 4, 64):
        code, found = answers(tmp_path, digits, *inputs, batch_size=batch_size)
        assert code == 1
        assert [one["input"] for one in found] == list(map(str, inputs))
        reasons = errors(found)
        assert reasons[0] == reasons[-1] == found[0]["class"]
        assert reasons[1] == "four colour channels (CMYK): convert it to RGB"
        assert reasons[2] == "16 bits a channel: convert it to 8"
        assert reasons[3:5] == ["truncated or damaged PNG", "zero bytes"]
        assert reasons[5].startswith("not an image that TensorFlow reads")
        assert reasons[6] == "animated, 2 frames: take one frame out"
        assert reasons[7].startswith("no image in this folder: looked for .jpg")
        assert reasons[8:10] == ["not a file", "no such file"]
        assert set(found[1]) == {"input", "error"}
        assert capsys.readouterr().err == "9 of 11 inputs could not be predicted\n"


def test_a_folder_gives_all_its_images_ordered_by_path(digits: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    names = ["b.png", "a/2.png", "a/10.JPG", "a-b/1.png", "c/d/e.bmp", "a.png"]
    for name in names:
        save(root / name, 60)
    (root / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    save(root / ".hidden" / "x.png", 60)
    save(root / ".y.png", 60)
    (root / "c" / "up").symlink_to(root)
    (root / "linked").symlink_to(root / "c" / "d")
    code, found = answers(tmp_path, digits, root)
    wanted = [str(root / name) for name in sorted([*names, "c/up", "linked/e.bmp"])]
    assert [one["input"] for one in found] == wanted
    assert code == 1
    loops = [one["input"] for one in found if "form a loop" in one.get("error", "")]
    assert loops == [f"{root}/c/up"]


def test_a_folder_says_what_of_it_is_not_predicted(digits, tmp_path, capsys) -> None:
    root = tmp_path / "photos"
    for name in ("a.png", "@eaDir/a.png", "sub/__MACOSX/b.png", "sub/._c.png", "sub/Thumbs.db"):
        save(root / name, 50, format="PNG")
    save(root / "sub" / "d.jfif", 50, format="JPEG")
    for name in ("b.heic", "sub/e.TIF", "notes.txt", "image"):
        (root / name).write_bytes(b"anything")
    code, found = answers(tmp_path, digits, root)
    wanted = ["a.png", "b.heic", "sub/d.jfif", "sub/e.TIF"]
    assert [one["input"] for one in found] == [str(root / name) for name in wanted]
    assert code == 1
    reason = "which TensorFlow does not read: convert to JPEG or PNG"
    assert errors(found)[1::2] == [f".heic, {reason}", f".tif, {reason}"]
    assert capsys.readouterr().err.splitlines() == [
        f"{root}: not images, skipped: 1 (no suffix), 1 ._*, 1 .txt, 1 @eaDir/, 1 Thumbs.db, "
        "1 __MACOSX/",
        "2 of 4 inputs could not be predicted",
    ]


def test_images_are_brought_to_the_size_and_channels_of_the_run(digits, tmp_path) -> None:
    small = answers(tmp_path, digits, save(tmp_path / "a.png", 77))[1][0]["probabilities"]
    for size, mode in (((8, 8), "RGB"), ((31, 16), "L"), ((400, 300), "RGBA")):
        path = save(tmp_path / "b.png", 77, size, mode)
        found = answers(tmp_path, digits, path)[1][0]["probabilities"]
        assert found == pytest.approx(small, abs=1e-6)


def test_a_run_on_images_that_are_not_square_takes_their_size_alone(wide, tmp_path) -> None:
    inputs = [save(tmp_path / "a.png", 10, (12, 9)), save(tmp_path / "b.png", 10, (9, 12))]
    for batch_size in (1, 2):
        code, found = answers(tmp_path, wide, *inputs, batch_size=batch_size)
        assert (code, found[0]["class"]) == (1, found[0].get("class", "none"))
        assert found[1]["error"].startswith("9x12 pixels, but this run reads 12x9: resize it")


def test_standard_input_names_images(digits: Path, tmp_path: Path, monkeypatch) -> None:
    path = save(tmp_path / "a.png", 77)
    lines = [json.dumps({"image": path}), json.dumps(path), '{"text": "a"}', '{"image": "gone"}']
    (tmp_path / "lines").write_text("\n".join(lines))
    with (tmp_path / "lines").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        code, found = answers(tmp_path, digits, path, "-", path)
    assert code == 1
    name = found[0]["class"]
    no_key = "standard input, line 3: no key 'image'; it has 'text'"
    assert errors(found) == [name, name, name, no_key, "no such file", name]
    assert found[4]["input"] == "gone"


def test_a_model_that_gives_no_numbers_is_an_error_of_each_input(digits, tmp_path) -> None:
    run = open_run(digits)
    bias = run.classifier.trainable_variables[-1]
    bias.assign(np.full(bias.shape, np.nan))
    path = save(tmp_path / "a.png", 77)
    found = Predictor(run)([Item(path), Item("b", "not read")])
    assert found[0]["input"] == path
    assert found[0]["error"].startswith("the model gives no finite numbers")
    assert found[1] == {"input": "b", "error": "not read"}


def test_inputs_are_read_as_they_are_needed(digits: Path, tmp_path: Path, monkeypatch) -> None:
    """A batch is answered before the next is opened: memory does not grow with the inputs."""
    opened, held = [], []
    monkeypatch.setattr(
        "app.commands.predictor._load_image", lambda path, size: opened.append(path) or "no"
    )
    monkeypatch.setattr("app.commands.predict._line", lambda one: held.append(len(opened)) or b"")
    predict(digits, [f"{n}.png" for n in range(10)], 4, None, tmp_path / "out")
    assert held == [4] * 4 + [8] * 4 + [10] * 2


def test_names_that_are_not_utf8_can_be_told_from_the_answer(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    name = os.path.join(os.fsencode(tmp_path / "photos"), b"caf\xe9.png")
    with open(name, "wb") as file:
        Image.new("L", (8, 8), 77).save(file, "PNG")
    code, found = answers(tmp_path, digits, tmp_path / "photos")
    assert code == 0
    assert os.fsencode(found[0]["input"]) == name


def test_mistakes_of_the_command_are_named(digits: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 77)
    with pytest.raises(UserError, match="'-' is given twice"):
        predict(digits, ["-", path, "-"], 1, None, None)
    with pytest.raises(UserError, match="holds no run"):
        predict(tmp_path, [path], 1, None, None)
    with pytest.raises(UserError, match="cannot write to .*: Is a directory"):
        predict(digits, [path], 1, None, tmp_path)
    before = Path(path).read_bytes()
    with pytest.raises(UserError, match="is one of the inputs"):
        predict(digits, [path], 1, None, Path(path))
    assert Path(path).read_bytes() == before
