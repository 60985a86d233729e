"""Predictions: those of evaluation, for every kind of input, with what is wrong in its place."""

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
from app.load import LoadedData, load_data
from app.recipe import load
from app.train import train

pytestmark = pytest.mark.full_matrix  # slow: CI runs it

DIGITS = {"dataset": "digits", "width": 4, "epochs": 8, "learning_rate": 0.05}
GOLDEN_CLASSES = list("378960")
GOLDEN_PROBABILITIES = [0.9999, 0.9956, 0.9452, 0.8560, 0.8130, 0.9995]
PYDOCS = {"dataset": "pydocs", "model": "textcnn", "width": 16, "epochs": 3, "max_tokens": 40}
PYDOCS |= {"vocabulary_size": 3000, "learning_rate": 0.04, "global_batch_size": 128}


def trained(directory: Path, **keys: object) -> Path:
    train(load(None, {"run_dir": directory, **keys}))
    return directory


def own_data(run: SavedRun) -> LoadedData:
    return load_data(run.config, World())


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "digits", **DIGITS)


@pytest.fixture(scope="module")
def pydocs(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "pydocs", **PYDOCS)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A run on images that are not square."""
    root = tmp_path_factory.mktemp("wide")
    for label, name in enumerate(("dark", "light")):
        (root / "data" / name).mkdir(parents=True)
        for number in range(20):
            save(root / "data" / name / f"{number}.png", 180 * label + number, (12, 9))
    return trained(root / "run", dataset=str(root / "data"), width=4, epochs=1, global_batch_size=8)


def save(path: Path, grey: int, size: tuple[int, int] = (8, 8), mode: str = "L", **how) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path, **how)
    return str(path)


def digits_as_files(run: SavedRun, folder: Path) -> np.ndarray:
    """Writes the test split as PNG files; returns its labels."""
    source = own_data(run).dataset.splits["test"]
    folder.mkdir()
    for number, pixels in enumerate(source.read(np.arange(len(source)))):
        Image.fromarray(pixels[..., 0]).save(folder / f"{number:04}.png")
    return source.labels


def answers(
    tmp_path: Path, run: Path, *inputs: object, batch_size: int = 64, top: int | None = None
) -> tuple[int, list[dict]]:
    """(exit code, the lines written)."""
    output = tmp_path / "answers.jsonl"
    code = predict(run, [str(given) for given in inputs], batch_size, top, output)
    return code, [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def errors(found: list[dict]) -> list[str]:
    """The reasons, and the class where there is none."""
    return [one.get("error") or one["class"] for one in found]


def confusion(found: list[dict], labels: np.ndarray, names: list[str]) -> np.ndarray:
    counts = np.zeros((len(names), len(names)), int)
    for one, label in zip(found, labels, strict=True):
        counts[label, names.index(one["class"])] += 1
    return counts


def loss(found: list[dict], labels: np.ndarray, names: list[str]) -> float:
    right = (one["probabilities"][names[n]] for one, n in zip(found, labels, strict=True))
    return float(np.mean([-np.log(p) for p in right]))


def test_images_are_predicted_as_in_evaluation(digits: Path, tmp_path: Path) -> None:
    run = open_run(digits)
    labels = digits_as_files(run, tmp_path / "files")
    scores = evaluate(run.classifier, own_data(run).splits["test"], World())
    code, found = answers(tmp_path, digits, tmp_path / "files", batch_size=50)
    assert code == 0
    assert np.array_equal(confusion(found, labels, run.class_names), scores.confusion)
    assert loss(found, labels, run.class_names) == pytest.approx(scores.loss, abs=1e-5)
    assert 0.5 < scores.accuracy < 1  # or every model would do


def test_texts_are_predicted_as_in_evaluation(pydocs: Path, tmp_path: Path) -> None:
    run = open_run(pydocs)
    data = own_data(run)
    source = data.dataset.splits["test"]
    scores = evaluate(run.classifier, data.splits["test"], World())
    texts = source.read(np.arange(len(source)))
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for batch_size in (7, 64):
        code, found = answers(tmp_path, pydocs, path, batch_size=batch_size)
        assert (code, [one["input"] for one in found]) == (0, list(texts))
        assert np.array_equal(confusion(found, source.labels, run.class_names), scores.confusion)
        assert loss(found, source.labels, run.class_names) == pytest.approx(scores.loss, abs=1e-5)
    assert 0.4 < scores.accuracy < 1


def test_the_texts_beside_it_do_not_change_a_prediction(pydocs: Path, tmp_path: Path) -> None:
    texts = ["open a socket", "x", "parse " * 60, "read the compressed file and close it"]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts))
    together = answers(tmp_path, pydocs, path)[1]
    alone = answers(tmp_path, pydocs, path, batch_size=1)[1]
    for one, other in zip(together, alone, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


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
    circles = [one["input"] for one in found if "circle" in one.get("error", "")]
    assert circles == [f"{root}/c/up"]


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
        f"{root}: no images, passed over: 1 (no suffix), 1 ._*, 1 .txt, 1 @eaDir/, 1 Thumbs.db, "
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


def test_every_format_of_texts_gives_the_same(pydocs: Path, tmp_path: Path) -> None:
    texts = ["open, read and close a file", 'say "hello" to the server', "日本 é 🎉"]
    lines = {
        "a.txt": texts,
        "a.jsonl": [json.dumps({"x": 1, "text": text}) for text in texts],
        "a.ndjson": [json.dumps(text) for text in texts],
        "a.tsv": ["n\ttext", *(f"{n}\t{text}" for n, text in enumerate(texts))],
        "a.csv": ["text,n", *('"' + t.replace('"', '""') + '",1' for t in texts)],
    }
    for name, content in lines.items():
        (tmp_path / name).write_text("\ufeff" + "\r\n".join(content) + "\r\n\r\n", "utf-8")
    code, found = answers(tmp_path, pydocs, *(tmp_path / name for name in lines))
    assert (code, [one["input"] for one in found]) == (0, texts * len(lines))
    for number, one in enumerate(found):
        same = found[number % len(texts)]["probabilities"]
        assert one["probabilities"] == pytest.approx(same, abs=1e-6)


def test_what_is_wrong_with_a_row_is_said_in_its_place(pydocs: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [b'"fine"', b"{bad", b'{"txt": "a"}', b"7", b'""', b"", b'"\\ud800"', b'"\xff"', b'"x"']
    path.write_bytes(b"\n".join(rows) + b"\n\n\n")
    code, found = answers(tmp_path, pydocs, path, batch_size=3)
    assert code == 1
    expected = 'expected {"text": "..."} or a string'
    cp1252 = ", with: iconv -f cp1252 -t UTF-8 if it comes from Windows or Excel; or train with "
    assert errors(found)[1:-1] == [
        f"{path}, line 2: not valid JSON: Expecting property name enclosed in double quotes "
        f"at column 2: {expected}",
        f"{path}, line 3: no key 'text'; it has 'txt'",
        f"{path}, line 4: {expected}; got int",
        f"{path}, line 5: empty",
        f"{path}, line 7: not UTF-8 text (\\ud800 is half a character)",
        f"{path}, line 8: not UTF-8 text (byte 0xff): convert the file to UTF-8{cp1252}"
        "--encoding cp1252",
    ]
    assert "class" in found[0] and "class" in found[-1]
    given = [one["input"] for one in found]
    texts = [row.decode("utf-8", "surrogateescape") for row in rows[1:-1] if row]
    assert given == ["fine", *texts, "x"]  # a blank line is no row


def test_files_of_texts_that_cannot_be_read_are_errors(pydocs: Path, tmp_path: Path) -> None:
    files = {
        "table.csv": b"txt,n\na,1\n",
        "short.csv": b"text,n\nfine,1\nonly\n",
        "quote.csv": b'text\nfine\n"no end\n',
        "wide.txt": "text".encode("utf-16"),
        "empty.txt": b"",
        "a.pdf": b"%PDF",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    inputs = [*(tmp_path / name for name in files), tmp_path, tmp_path / "gone.txt"]
    code, found = answers(tmp_path, pydocs, *inputs)
    assert code == 1
    reasons = [one["error"] for one in found if "error" in one]
    assert len(found) == len(inputs) + 2  # the two good rows
    assert "table.csv has no column 'text': did you mean 'txt'?" in reasons[0]
    assert "short.csv, line 3: 1 fields, but the header has 2" in reasons[1]
    assert "quote.csv, line 3: not valid CSV" in reasons[2]
    assert "wide.txt is not UTF-8 text but UTF-16" in reasons[3]
    assert reasons[4].endswith("empty.txt is empty")
    assert "a.pdf: expected a file that ends with .txt, .csv, .tsv" in reasons[5]
    assert reasons[6].endswith("it is a folder")
    assert reasons[7] == f"no file {tmp_path}/gone.txt"


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


def test_the_input_key_of_the_run_is_a_key_too(tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    rows = [f"{word} {n},{word}" for n in range(30) for word in ("good", "bad")]
    table.write_text("\n".join(["review,label", *rows]))
    run = trained(
        tmp_path / "run", dataset=str(table), input_key="review", model="bag", width=4, epochs=1
    )
    (tmp_path / "a.csv").write_text("text,review\nno,good one\n")
    (tmp_path / "b.jsonl").write_text('{"review": "good one"}\n{"text": "bad one"}\n')
    code, found = answers(tmp_path, run, tmp_path / "a.csv", tmp_path / "b.jsonl")
    assert (code, [one["input"] for one in found]) == (0, ["good one", "good one", "bad one"])


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
