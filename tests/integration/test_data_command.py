"""`python -m app data` as a user runs it, and runs on data of the user's own."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.__main__ import main
from app.commands.saved_run import open_run
from app.distributed.world import World
from app.evaluation.evaluate import evaluate
from app.load import load_data
from app.recipe import load
from tests.integration.launching import app, run

COLORS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}
GOOD, POOR = "好喜欢美味高兴棒赞优秀完美", "坏讨厌难吃生气差烂糟糕失望"
EITHER = "这个今天我们去了店里买东西然后回家看书"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    """The indices of what is exported do not go into the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def data(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """What the command prints; it must end well."""
    code = main(["data", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, ""), err
    return out


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line of a mistake."""
    code = main(["data", *map(str, arguments)])
    _, err = capsys.readouterr()
    assert code == 2, err
    assert err.startswith("error: ") and len(err.splitlines()) == 1, err
    return err


def train(directory: Path, **keys: object) -> dict:
    """The metrics of a run in this process."""
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in keys.items()]
    assert main(["train", "--run-dir", str(directory), *flags]) == 0
    return json.loads((directory / "metrics.json").read_text())


def picture(color: tuple[int, int, int], number: int, size: tuple[int, int] = (12, 12)) -> bytes:
    """A noisy PNG, another for each number."""
    noise = np.random.default_rng(number).integers(-40, 40, (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_photos(root: Path, number: int, first: int = 0) -> Path:
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(first, first + number):
            (root / name / f"{i}.png").write_bytes(picture(color, i))
    return root


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A table of 300 Chinese sentences: ten characters of which two tell the class."""
    draw = random.Random(0)

    def sentence(telling: str) -> str:
        some = "".join(draw.choice(EITHER) for _ in range(7))
        return some[:5] + draw.choice(telling) + draw.choice(telling) + some[5:] + "。"

    rows = [f"{sentence(GOOD)},好评\n{sentence(POOR)},差评\n" for _ in range(150)]
    path = tmp_path / "评论.csv"
    path.write_text("text,label\n" + "".join(rows), encoding="utf-8")
    return path


def test_data_prints_the_classes_sizes_and_samples_of_digits() -> None:
    done = run(app("data", "digits"), timeout_s=60)
    assert done.code == 0, done.all
    assert done.err == "", done.all
    lines = done.out.splitlines()
    assert lines[0] == "digits: images, 10 classes", done.all
    assert lines[2].split() == ["class", "train", "validation", "test"], done.all
    assert ["all", "1,294", "144", "359"] in [line.split() for line in lines], done.all
    assert "image sizes: all 8x8" in lines, done.all
    assert lines[-1] == "problems found: 0", done.all


def test_data_finds_the_problems_of_a_folder(tmp_path: Path, capsys) -> None:
    root = tmp_path / "photos"
    write_photos(root / "train", 12)
    write_photos(root / "test", 2, first=11)  # one of each class is in training
    (root / "train" / "blue" / "cut.png").write_bytes(picture((0, 0, 0), 1)[:-40])
    (root / "train" / "blue" / "empty.jpg").write_bytes(b"")
    (root / "train" / "red" / "again.png").write_bytes(picture(COLORS["red"], 3))
    (root / "train" / "rare").mkdir()
    (root / "train" / "rare" / "1.png").write_bytes(picture((9, 9, 9), 1))
    found = data(capsys, root, "--validation", 0)
    rows = [line.split() for line in found.splitlines()]
    assert ["class", "train", "test"] in rows
    assert ["red", "13", "2"] in rows
    assert ["rare", "1", "0"] in rows
    assert ["all", "38", "6"] in rows
    # In the order in which they are found: headers first, then what does not decode.
    assert found.splitlines()[-7:] == [
        "problems found: 6",
        f"  {root}/train/blue/empty.jpg: zero bytes",
        f"  {root}/train/blue/cut.png: truncated or damaged PNG",
        "  class 'rare' has 1 training examples",
        "  the largest class has 13 training examples, the smallest 1: consider --imbalance "
        "class_weights",
        "  1 training examples repeat another one",
        "  3 examples of the test split are in the training split too",
    ]


def test_data_shows_by_class_what_is_no_example(tmp_path: Path, capsys) -> None:
    root = tmp_path / "photos"
    write_photos(root / "training_set", 12)
    write_photos(root / "test_set", 2, first=20)
    train_set = root / "training_set"
    (train_set / "red\u200b").mkdir()
    (train_set / "red\u200b" / "x.jfif").write_bytes(picture(COLORS["red"], 50))
    for number in range(12):
        (train_set / "blue" / f"IMG_{number}.HEIC").write_bytes(b"heic")
        (train_set / "green" / "@eaDir").mkdir(exist_ok=True)
        (train_set / "green" / "@eaDir" / f"{number}.png").write_bytes(picture((0, 0, 0), number))
    found = data(capsys, root, "--validation", 0)
    rows = [line.split() for line in found.splitlines()]
    assert ["blue", "12", "2"] in rows
    assert ["green", "12", "2"] in rows
    assert ["red", "13", "2"] in rows
    assert found.splitlines()[-6:] == [
        "skipped files and merged classes",
        f"  {train_set}: class 'red' is one, written in 2 ways: 'red', 'red\\u200b'",
        f"  {root}: hidden or system files and folders, skipped: 1 @eaDir",
        "",
        "problems found: 1",
        f"  {train_set}/blue: 12 of 24 images of this class cannot be read: 12 .heic, which "
        "TensorFlow does not read: convert to JPEG or PNG (the first: IMG_0.HEIC)",
    ]
    message = refused(capsys, root, "--export", "tfrecord", tmp_path / "copy")
    assert "12 of 24 images of this class" in message and "--on-bad skip" in message
    data(capsys, root, "--on-bad", "skip", "--export", "tfrecord", tmp_path / "copy")


def test_data_lists_every_bad_row_however_many(tmp_path: Path, capsys) -> None:
    path = tmp_path / "t.csv"
    good = "".join(f"text {i},{'yes' if i % 2 else 'no'}\n" for i in range(20))
    path.write_text("text,label\n" + good + ",yes\n" * 9)
    found = data(capsys, path)
    assert "problems found: 9" in found
    for line in range(22, 31):
        assert f"{path}, line {line}: column 'text' is empty" in found


def test_data_prints_the_lengths_of_texts_in_the_tokens_asked_for(reviews, capsys) -> None:
    found = data(capsys, reviews, "--max-tokens", 5, "--tokens", "characters")
    lines = found.splitlines()
    assert lines[0] == "评论: texts, 2 classes"
    assert "  train      10, 10, 10, 10; 243 longer than max_tokens = 5" in lines
    samples = lines[lines.index("samples of the training split") + 1 :][:5]
    assert all(line[2:6] in ("好评: ", "差评: ") and line.endswith("。") for line in samples)
    found = data(capsys, reviews)  # words: punctuation is none
    assert "  train      9, 9, 9, 9; 0 longer than max_tokens = 256" in found.splitlines()


def test_data_shows_a_folder_of_mixed_sizes(tmp_path: Path, capsys) -> None:
    root = write_photos(tmp_path / "photos", 10)
    (root / "red" / "wide.png").write_bytes(picture(COLORS["red"], 1, (30, 20)))
    assert "image sizes: 2 different, 12 to 30 wide, 12 to 20 high" in data(capsys, root)


def test_a_mistake_of_export_is_named_before_anything_is_written(tmp_path, capsys) -> None:
    full = write_photos(tmp_path / "full", 1)
    before = sorted(tmp_path.rglob("*"))
    assert "only format is tfrecord" in refused(capsys, "digits", "--export", "csv", full)
    assert "full exists already" in refused(capsys, "digits", "--export", "tfrecord", full)
    file = full / "red" / "0.png"
    assert "0.png exists already" in refused(capsys, "digits", "--export", "tfrecord", file)
    assert "cannot write" in refused(capsys, "digits", "--export", "tfrecord", file / "x" / "y")
    assert "expected 2 arguments" in refused(capsys, "digits", "--export", "tfrecord")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bad_image_is_exported_by_no_policy(tmp_path: Path, capsys) -> None:
    root = write_photos(tmp_path / "photos", 10)
    (root / "red" / "cut.png").write_bytes(picture((0, 0, 0), 1)[:-40])
    copy = tmp_path / "copy"
    assert "cut.png: truncated or damaged PNG" in refused(
        capsys, root, "--export", "tfrecord", copy
    )
    assert not copy.exists()
    found = data(capsys, root, "--export", "tfrecord", copy, "--on-bad", "skip")
    assert f"train on it with --dataset {copy}" in found
    found = data(capsys, copy, "--image-size", 12)
    assert ["all", "24", "3", "3"] in [line.split() for line in found.splitlines()]
    assert found.endswith("problems found: 0\n")


@pytest.mark.parametrize("source", ["digits", "photos"])
def test_equal_images_need_no_size_to_be_read_from_the_copy(tmp_path, capsys, source) -> None:
    original = write_photos(tmp_path / "photos", 10) if source == "photos" else source
    before = data(capsys, original, "--export", "tfrecord", tmp_path / "copy")
    sizes = next(line for line in before.splitlines() if line.startswith("image sizes"))
    assert sizes in data(capsys, tmp_path / "copy").splitlines()


def test_a_copy_inside_its_source_is_refused(tmp_path: Path, capsys) -> None:
    root = write_photos(tmp_path / "photos", 10)
    refused(capsys, root, "--export", "tfrecord", root / "copy")


@pytest.mark.full_matrix
def test_two_ranks_train_from_an_exported_copy_as_a_stream(tmp_path: Path, capsys) -> None:
    root = write_photos(tmp_path / "photos", 40)
    (root / "red" / "wide.png").write_bytes(picture(COLORS["red"], 1, (30, 20)))
    copy = tmp_path / "copy"
    data(capsys, root, "--export", "tfrecord", copy, "--image-size", 12)
    keys = ["--dataset", str(copy), "--hold", "stream", "--flip", "horizontal", "--epochs", "4"]
    keys += ["--per-rank-batch-size", "8", "--width", "8", "--learning-rate", "0.01"]
    directory = tmp_path / "run"
    command = ["launch/local.sh", "-n", "2", "train", *keys, "--run-dir", str(directory)]
    done = run(command, timeout_s=120)
    assert done.code == 0, done.all
    assert done.err == "", done.all
    assert "streamed from files" in done.out, done.all
    described = json.loads((directory / "data_plan" / "plan.json").read_text())
    assert described["stream"]
    assert described["class_names"] == list(COLORS)
    assert described["examples"] == {"train": 98, "validation": 11, "test": 12}
    metrics = json.loads((directory / "metrics.json").read_text())
    assert (metrics["world_size"], metrics["test_examples"]) == (2, 12)
    assert metrics["test_accuracy"] > 0.6, done.all


@pytest.mark.parametrize(
    ("tokens", "vocabulary_size"),
    [
        ("words", 20_000),
        ("characters", 20_000),
    ],
)
def test_chinese_texts_are_learnt(reviews: Path, tmp_path, tokens, vocabulary_size) -> None:
    metrics = train(
        tmp_path / "run",
        dataset=reviews,
        model="bag",
        tokens=tokens,
        vocabulary_size=vocabulary_size,
        epochs=8,
        learning_rate=0.02,
    )
    assert metrics["test_accuracy"] > 0.9
    assert list(metrics["test_recall"]) == ["好评", "差评"]
    described = json.loads(
        (tmp_path / "run" / "data_plan" / "plan.json").read_text(encoding="utf-8")
    )
    assert {"好", "坏"} <= set(described["tokenizer"]["vocabulary"])


def test_a_run_on_a_folder_names_its_classes_and_the_hardest(tmp_path: Path, capsys) -> None:
    root = write_photos(tmp_path / "photos", 30)
    (root / "beige").mkdir()
    for number in range(10):  # too few, and of all colours: hard
        color = list(COLORS.values())[number % 3]
        (root / "beige" / f"{number}.png").write_bytes(picture(color, 100 + number))
    keys = {"epochs": 10, "width": 8, "learning_rate": 0.01, "test": 0.2}
    metrics = train(tmp_path / "run", dataset=root, **keys)
    out, err = capsys.readouterr()
    assert err == ""
    assert "photos: 72 train, 8 validation, 20 test, 4 classes" in out
    recall = metrics["test_recall"]
    assert list(recall) == ["beige", "blue", "green", "red"]
    assert metrics["test_accuracy"] > 0.6
    hardest = next(line for line in out.splitlines() if "hardest" in line)
    assert hardest.split(None, 1)[1].startswith("beige 0%,")
    described = json.loads((tmp_path / "run" / "data_plan" / "plan.json").read_text())
    assert described["class_names"] == ["beige", "blue", "green", "red"]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A table of 240 short texts: the intent that two words tell, and for most the place."""
    draw = random.Random(0)
    telling = {"ask": ["what", "when"], "buy": ["get", "order"], "sell": ["offer", "give"]}
    places = {"home": ["sofa", "lamp"], "office": ["desk", "printer"]}
    rows = ["text,intent,place"]
    for number in range(240):
        intent, place = list(telling)[number % 3], list(places)[number % 2]
        words = [draw.choice(telling[intent]), draw.choice(places[place])]
        words += [draw.choice("abcdefgh") * 2 for _ in range(3)]
        rows.append(f"{' '.join(words)},{'' if number % 20 == 7 else intent},"
                    f"{'' if number % 4 == 1 else place}")  # fmt: skip
    path = tmp_path / "notes.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_two_labels_are_shown_exported_and_learnt(notes: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "copy"
    found = data(capsys, notes, "--label-key", "intent,place", "--export", "tfrecord", copy)
    lines = [line.split() for line in found.splitlines()]
    assert "notes: texts, 2 labels: intent (3 classes), place (2 classes)" in found
    for head in ("intent", "place"):
        assert [head, "train", "validation", "test"] in lines
    assert lines.count(["all", "194", "22", "24"]) == 2
    assert sum(line[:1] == ["(missing)"] for line in lines) == 2
    assert f"train on it with --dataset {copy} --label-key intent,place" in found

    how = {"label_key": "intent,place", "model": "bag", "epochs": 12, "learning_rate": 0.02}
    for name, source in (("table", notes), ("copy", copy)):
        directory = tmp_path / f"run of the {name}"
        assert train(directory, dataset=source, **how)["test_accuracy"] > 0.9
        described = json.loads((directory / "data_plan" / "plan.json").read_text())
        assert described["class_names"] == ["ask", "buy", "sell"]
        assert described["heads"] == [
            ["intent", ["ask", "buy", "sell"]],
            ["place", ["home", "office"]],
        ]
        split = load_data(load(directory / "config.toml", {}), World()).splits["test"]
        results = evaluate(open_run(directory).classifier, split, World())
        for scores, labels in zip(results.heads.values(), split.labels.T, strict=True):
            assert 0 < scores.examples == (labels >= 0).sum()
            assert scores.accuracy > 0.9
