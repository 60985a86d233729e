"""`python -m app evaluate`: the run's own splits, other images, and what is written about them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from app.__main__ import main
from app.commands.saved_run import open_run
from app.data.batches import Loaded
from app.data.images import ImageSpec, decode_images
from app.distributed.world import World
from app.errors import UserError
from app.evaluation.evaluate import evaluate
from app.evaluation.figures import (
    MOST_CLASSES,
    confusion_figure,
    f1_figure,
    reliability_figure,
    to_png,
)
from app.load import load_data
from app.recipe import load
from app.rundir import contents
from app.rundir.files import list_checkpoints
from app.train import train
from tests.single.commands.evaluating import (
    check_test_split,
    copy_of,
    first_of_test,
    open_test_labels,
    run_on,
    set_weights,
)

pytestmark = pytest.mark.full_matrix  # slow: CI runs it


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A short run on the embedded images, and its metrics."""
    path = tmp_path_factory.mktemp("digits") / "run"
    keys = {"run_dir": str(path), "epochs": 2, "global_batch_size": 64, "learning_rate": "4e-3"}
    return path, train(load(None, keys), world=World())


def test_the_test_split_scores_as_at_the_end_of_training(digits) -> None:
    check_test_split(*digits)


def test_another_checkpoint_than_the_newest_can_be_chosen(digits, tmp_path, capsys) -> None:
    path, metrics = digits
    older, newest = (one.name for one in list_checkpoints(path / "checkpoints"))
    command = ["evaluate", str(path), "--checkpoint", older, "--output", str(tmp_path / "older")]
    assert main(command) == 0
    result = json.loads((tmp_path / "older" / "evaluation.json").read_text())
    assert (result["checkpoint"], result["epoch"]) == (older, 1)
    assert f"--checkpoint {older}" in result["command"]
    assert result["loss"] > metrics["test_loss"]
    assert f"{path}, {older}" in (tmp_path / "older" / "evaluation.md").read_text()
    capsys.readouterr()
    assert main(["evaluate", str(path), "--checkpoint", "step-00000001"]) == 2
    assert f"no such checkpoint: did you mean '{older}'?" in capsys.readouterr().err
    assert run_on(path)["checkpoint"] == newest


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_held_out_examples_are_those_of_training(digits, split: str) -> None:
    path, _ = digits
    data = load_data(load(path / "config.toml", {}), World())
    expected = evaluate(open_run(path).classifier, data.splits[split], World()).first
    result = run_on(path, split)
    assert result["confusion"] == expected.confusion.tolist()
    assert result["split"] == split and (path / "evaluations" / split).is_dir()


def test_a_run_without_that_split_says_which_it_has(tmp_path: Path, digits) -> None:
    path = copy_of(digits[0], tmp_path)
    config = (path / "config.toml").read_text().replace("[data]", "[data]\nvalidation = 0.0")
    (path / "config.toml").write_text(config)
    with pytest.raises(UserError, match="the data has changed since"):  # more to train on
        run_on(path)
    data = load_data(load(path / "config.toml", {}), World())
    contents.keep_run(path, load(path / "config.toml", {}), data.plan)
    with pytest.raises(UserError, match="has no validation split.*: train, test$"):
        run_on(path, "validation")


def test_golden_report(tmp_path: Path, digits) -> None:
    """A network that always says 0, with a probability of 3/4: the same on every machine."""
    path = copy_of(digits[0], tmp_path)
    set_weights(path, bias_of_first=np.log(27))  # 27 / (27 + 9)
    result = run_on(path, "test", tmp_path / "out")
    assert result["accuracy"] == 36 / 359
    assert result["calibration_error"] == pytest.approx(0.75 - 36 / 359)
    expected_loss = (36 * -np.log(0.75) + 323 * -np.log(1 / 36)) / 359
    assert result["loss"] == pytest.approx(expected_loss, rel=1e-6)
    text = (tmp_path / "out" / "evaluation.md").read_text(encoding="utf-8")
    head, _, rest = text.partition("| 1 | - | 0.00% | 0.00% | 36 |")
    assert head.splitlines() == [
        "# digits: test",
        "",
        f"    python -m app evaluate {path} --split test --output {tmp_path / 'out'}",
        "",
        "|  |  |",
        "| --- | --- |",
        f"| run | {path}, {list_checkpoints(path / 'checkpoints')[-1].name} |",
        f"| data | digits, test (fingerprint {result['fingerprint']}) |",
        "| examples | 359 |",
        "| accuracy | 10.03% |",
        "| top-5 accuracy | 50.14% |",
        "| loss | 3.2530 nats |",
        "| macro F1 | 1.82% |",
        "| calibration error | 64.97% (expected, 15 bins) |",
        "",
        "## Classes",
        "",
        "| class | precision | recall | F1 | examples |",
        "| --- | --- | --- | --- | --- |",
        "| 0 | 10.03% | 100.00% | 18.23% | 36 |",
    ]
    assert "| macro average | 1.00% | 10.00% | 1.82% | 359 |" in rest
    assert "| weighted average | 1.01% | 10.03% | 1.83% | 359 |" in rest
    assert "| 73.3% to 80.0% | 359 | 75.00% | 10.03% |" in rest
    first = int(np.flatnonzero(open_test_labels(path))[0])
    mistake = result["mistakes"][0]
    assert (mistake["index"], mistake["predicted"]) == (first, "0")
    assert f"| {mistake['true']} | 0 | 75.00% | example {first} |  |" in rest


def test_the_terminal_gets_a_short_table(digits, capsys) -> None:
    path, metrics = digits
    capsys.readouterr()
    run_on(path)
    shown = capsys.readouterr().out
    assert f"accuracy           {metrics['test_accuracy']:.2%}" in shown
    assert f"report             {path / 'evaluations' / 'test' / 'evaluation.md'}" in shown
    assert len(shown.splitlines()) < 20


def test_a_script_gets_the_result_as_json(digits, capfd) -> None:
    path, metrics = digits
    assert main(["evaluate", str(path), "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["accuracy"] == metrics["test_accuracy"]
    assert "calibration error" in err


def test_images_of_other_sizes_and_colours_are_brought_to_the_runs(tmp_path: Path, digits) -> None:
    path, _ = digits
    test, spec = first_of_test(path, 60), ImageSpec(8, "crop", 1)
    expected = np.zeros((60, 8, 8, 1), np.uint8)
    for number, (image, label) in enumerate(zip(test.everything.numpy(), test.labels, strict=True)):
        file = tmp_path / "drawn" / str(label) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        side = 8 * (1 + number % 3)
        colours = Image.fromarray(np.repeat(image, 3, axis=2))
        colours.resize((side, side + number % 2), Image.Resampling.BOX).save(file)
        expected[number] = decode_images([file.read_bytes()], spec)[0][0]
    result = run_on(path, dataset=str(tmp_path / "drawn"))
    split = Loaded(tf.constant(expected), test.labels)
    scores = evaluate(open_run(path).classifier, split, World()).first
    assert result["examples"] == 60
    assert result["confusion"] == scores.confusion.tolist()
    assert result["mistakes"][0]["where"].startswith(str(tmp_path / "drawn"))


def test_images_in_memory_are_resized_too(tmp_path: Path, digits) -> None:
    result = run_on(digits[0], dataset="digits", split="train")
    assert result["examples"] == 1438  # nothing is held out of another source
    folder = tmp_path / "rgb"
    for name in "01":
        (folder / name).mkdir(parents=True)
        for number in range(20):
            colour = (255 * int(name), number, 9)
            Image.new("RGB", (16, 16), colour).save(folder / name / f"{number}.png")
    keys = {"dataset": str(folder), "run_dir": str(tmp_path / "run"), "epochs": 1}
    train(load(None, keys | {"global_batch_size": 8}), world=World())
    with pytest.raises(UserError, match=r"class '[2-9]' is none of those"):
        run_on(tmp_path / "run", dataset="digits")
    name = "synthetic-image:size=24,channels=1,classes=1,examples=40"
    with pytest.raises(UserError, match="class 'class 0' is none of those"):
        run_on(tmp_path / "run", dataset=name)
    about = json.loads((tmp_path / "run" / "data_plan" / "plan.json").read_text())
    about["class_names"] = ["class 0", "class 1"]
    (tmp_path / "run" / "data_plan" / "plan.json").write_text(json.dumps(about))
    assert run_on(tmp_path / "run", dataset=name)["examples"] == 4  # its test split
    assert (tmp_path / "run" / "evaluations" / "synthetic-image-test").is_dir()
    streamed = run_on(tmp_path / "run", "train", dataset=name, hold="stream")
    assert streamed["examples"] == 40


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epochs": "3"}, "--epochs is no key of"),
        ({"epoch": "3"}, "unknown key 'epoch'"),
        ({"max_tokens": "9"}, "--max-tokens cannot be changed"),
        ({"dataset": "digits", "test": "0.5"}, "a share is held out for training"),
        ({"dataset": "pydocs"}, "reads images, and pydocs holds texts"),
        ({"dataset": "nothing.csv"}, "no file nothing.csv"),
        ({"dataset": "digits", "label_key": "x"}, "label_key = 'x' names a column"),
    ],
)
def test_what_cannot_be_scored_is_refused(digits, overrides: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_on(digits[0], **overrides)


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        run_on(tmp_path)


def test_an_output_that_cannot_be_written_is_a_users_mistake(tmp_path: Path, digits) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the evaluation to"):
        run_on(digits[0], output=tmp_path / "file" / "out")


def test_figures_of_many_classes_show_the_worst() -> None:
    random = np.random.default_rng(0)
    confusion = np.diag(random.integers(50, 60, 100))
    confusion[7, 93] = confusion[93, 7] = 40
    axes = confusion_figure(confusion, [f"class {i}" for i in range(100)]).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == MOST_CLASSES and {"class 7", "class 93"} <= set(names)
    assert "25 most confused classes of 100" in axes.get_title()
    f1 = [0.9] * 98 + [0.1, None]
    axes = f1_figure(f1, [str(i) for i in range(100)]).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "98" and "99" not in names and len(names) == MOST_CLASSES


def test_figures_of_no_examples_and_of_names_that_no_font_or_formula_has() -> None:
    names, zero = ["$\\wrong{", "猫", "x" * 90], np.zeros(15, np.int64)
    for figure in (
        confusion_figure(np.zeros((3, 3), np.int64), names),
        reliability_figure(zero, zero, np.zeros(15)),
        f1_figure([None, None, None], names),
        f1_figure([0.5, 0.0, 1.0], names),
    ):
        assert to_png(figure).startswith(b"\x89PNG")
