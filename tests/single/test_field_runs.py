"""What a run learns from tables as people have them, and what predict, evaluate, export and resume
then take as an example."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from app.commands.evaluate_run import evaluate_run
from app.commands.model_card import Check, Export, Signature, model_card
from app.commands.predict import predict
from app.commands.saved_run import open_run
from app.distributed.world import World
from app.recipe import load
from app.train import train

WORDS = {"x": "sun warm light", "y": "rain cold dark"}
JOINED = {"input_key": "title,body", "on_bad": "skip", "encoding": "cp1252"}


def rows(number: int) -> list[tuple[str, str, str]]:
    """(title, body, label), in which both columns tell the label."""
    found = []
    for n in range(number):
        label = "xy"[n % 2]
        first, *others = WORDS[label].split()
        found.append((f"{first} é{n % 3}", " ".join(others[: 1 + n % 2]), label))
    return found


def write(path: Path, table: list[tuple[str, str, str]]) -> Path:
    lines = ["title;body;label", *(";".join(row) for row in table)]
    path.write_bytes("\n".join(lines).encode("cp1252"))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on two columns of a file of Windows with semicolons, and a test file with a class that
    training lacks."""
    folder = tmp_path_factory.mktemp("joined")
    write(folder / "train.csv", rows(60))
    write(folder / "test.csv", [*rows(20), ("sun", "warm", "z")])
    keys: dict[str, Any] = {"dataset": str(folder / "train.csv"), "test": str(folder / "test.csv")}
    keys |= JOINED | {"model": "bag", "width": 8, "epochs": 20, "learning_rate": 0.05}
    train(load(None, {"run_dir": folder / "run", **keys}))
    return folder / "run"


def test_the_run_says_how_it_read_its_tables_and_what_it_left_out(run: Path) -> None:
    about = json.loads((run / "data_plan" / "plan.json").read_text())
    expected = "separator ';', encoding cp1252, title and body joined by a space"
    assert about["read_as"] == [f"train.csv: {expected}", f"test.csv: {expected}"]
    assert about["examples"]["test"] == 20
    left_out = [json.loads(line) for line in (run / "bad_examples.jsonl").read_text().splitlines()]
    assert [one["where"] for one in left_out] == [f"{run.parent / 'test.csv'}, line 22"]
    assert json.loads((run / "metrics.json").read_text())["test_accuracy"] == 1.0


def test_a_resumed_run_reads_its_tables_alike(run: Path) -> None:
    train(load(run / "config.toml", {"epochs": 21}), resume=True)
    assert json.loads((run / "metrics.json").read_text())["test_accuracy"] == 1.0


def answers(run: Path, *inputs: Path) -> list[dict[str, Any]]:
    output = run.parent / "answers.jsonl"
    assert predict(run, list(map(str, inputs)), 8, None, output) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_predict_joins_what_the_run_joined(run: Path, tmp_path: Path) -> None:
    table = rows(6)
    objects = [{"title": title, "body": body} for title, body, _ in table]
    texts = [f"{title} {body}" for title, body, _ in table]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(objects), file)
    files = {
        "rows.jsonl": "\n".join(map(json.dumps, objects)).encode(),
        "rows.json": json.dumps(objects).encode(),
        "rows.parquet": file.getvalue(),
        # Of a run on cp1252: what is UTF-8 is read as that.
        "utf-8.csv": ("body,title\n" + "".join(f"{b},{t}\n" for t, b, _ in table)).encode(),
        "joined.jsonl": "\n".join(json.dumps({"text": text}) for text in texts).encode(),
        "joined.txt": "\n".join(texts).encode(),
        "windows.txt": "\n".join(texts).encode("cp1252"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    write(tmp_path / "windows.csv", table)
    found = answers(run, *(tmp_path / name for name in (*files, "windows.csv")))
    assert len(found) == 8 * len(texts)
    for number, one in enumerate(found):
        assert one["input"] == texts[number % len(texts)]
        assert one["class"] == table[number % len(texts)][2]
        # Not to the last bit: a CPU may compute the rows at the end of a batch in other steps.
        same = found[number % len(texts)]["probabilities"]
        assert one["probabilities"] == pytest.approx(same, rel=1e-5)


def test_predict_says_which_of_the_columns_is_missing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"title": "sun"}\n{"title": "sun", "body": null}\n')
    (tmp_path / "a.csv").write_text("title,label\nsun,x\n")
    output = tmp_path / "answers.jsonl"
    inputs = [str(tmp_path / name) for name in ("a.jsonl", "a.csv")]
    assert predict(run, inputs, 8, None, output) == 1
    first, second, third = [json.loads(line) for line in output.read_text().splitlines()]
    assert "line 1: no key 'title,body'; it has 'title'" in first["error"]
    assert second["input"] == "sun" and second["class"] == "x"
    assert "no column 'title,body'" in third["error"]


def test_evaluate_leaves_out_a_class_that_the_run_does_not_know_if_asked(
    run: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "other.csv", [*rows(20), ("sun", "warm", "z")])
    overrides = {"dataset": str(path), **JOINED}
    result = evaluate_run(run, overrides, None, tmp_path / "evaluation", World())
    assert (result["examples"], result["accuracy"]) == (20, 1.0)
    assert "line 22" in result["bad_examples"][0]["where"]
    assert "class 'z' is none of those" in result["bad_examples"][0]["reason"]


def test_the_model_card_says_what_a_text_is(run: Path) -> None:
    signature = Signature("serving_default", "text")
    check = Check("test", 20, 20, 20, 0.0, 20, 1.0, 1.0)
    export = Export(run / "savedmodel", "savedmodel", None, (signature,), 1, (check,))
    card = model_card(open_run(run), export, {})
    assert "UTF-8: `title`, `body` in this order, joined by one space" in card
    assert "- read as: train.csv: separator ';', encoding cp1252, title and body joined" in card
