"""`python -m app evaluate` of texts: the run's own, other tables, and what the report quotes."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.commands.evaluate_run import MOST_MISTAKES
from app.data.bad import BadExamples
from app.data.catalogue import load_dataset
from app.distributed.world import World
from app.errors import UserError
from app.evaluation.report import to_markdown, write_report
from app.evaluation.results import Results
from app.evaluation.scores import Scores
from app.recipe import load
from app.train import train
from tests.single.commands.evaluating import check_test_split, run_on

pytestmark = pytest.mark.full_matrix  # slow: CI runs it


@pytest.fixture(scope="module")
def pydocs(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A short run on the embedded texts, and its metrics."""
    path = tmp_path_factory.mktemp("pydocs") / "run"
    keys = {"dataset": "pydocs", "model": "bag", "width": 8, "vocabulary_size": 5000}
    keys |= {"run_dir": str(path), "epochs": 2, "global_batch_size": 64, "learning_rate": "1e-2"}
    return path, train(load(None, keys), world=World())


def test_the_test_split_scores_as_at_the_end_of_training(pydocs) -> None:
    check_test_split(*pydocs)


def test_mistakes_carry_the_text_that_was_mistaken(pydocs) -> None:
    path, _ = pydocs
    result = run_on(path)
    dataset = load_dataset(load(path / "config.toml", {}).data, 0, BadExamples())
    assert len(result["mistakes"]) == MOST_MISTAKES
    for row in result["mistakes"]:
        assert row["text"] == dataset.test.inputs[row["index"]]
        assert row["true"] == dataset.class_names[dataset.test.labels[row["index"]]]
        assert row["predicted"] != row["true"]
    confidence = [row["confidence"] for row in result["mistakes"]]
    assert confidence == sorted(confidence, reverse=True)


def test_data_that_have_changed_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    write_table(table, [(f"good fine {i}", "yes") for i in range(30)])
    write_table(table, [(f"bad poor {i}", "no") for i in range(30)], append=True)
    path = tmp_path / "run"
    keys = {"dataset": str(table), "model": "bag", "run_dir": str(path), "epochs": 1}
    train(load(None, keys | {"global_batch_size": 16}), world=World())
    assert run_on(path)["examples"] == 6
    write_table(table, [("another", "yes")], append=True)
    with pytest.raises(UserError, match="the data has changed since .*restore the old data"):
        run_on(path)
    assert run_on(path, dataset=str(table))["examples"] == 61


def test_another_source_is_matched_by_the_names_of_its_classes(tmp_path: Path, pydocs) -> None:
    path, _ = pydocs
    dataset = load_dataset(load(path / "config.toml", {}).data, 0, BadExamples())
    wanted = ["text and data formats", "concurrency"]  # other order, fewer classes
    rows = [
        (text, dataset.class_names[label])
        for text, label in zip(dataset.test.inputs, dataset.test.labels, strict=True)
        if dataset.class_names[label] in wanted
    ]
    write_table(tmp_path / "some texts.csv", rows)
    result = run_on(path, dataset=str(tmp_path / "some texts.csv"))
    own = run_on(path)
    for name, ours, theirs in zip(
        dataset.class_names, result["confusion"], own["confusion"], strict=True
    ):
        assert ours == (theirs if name in wanted else [0] * 7), name
    assert result["split"] == "all" and result["examples"] == len(rows)
    assert (path / "evaluations" / "some-texts" / "evaluation.md").is_file()
    assert "some texts.csv, line " in result["mistakes"][0]["where"]
    assert f"--data '{tmp_path / 'some texts.csv'}'" in result["command"]


def test_a_class_that_the_run_does_not_know_is_named_with_its_row(tmp_path: Path, pydocs) -> None:
    write_table(tmp_path / "t.csv", [("a lock", "concurrency"), ("a knot", "sailing")])
    with pytest.raises(UserError, match=r"t.csv, line 3: class 'sailing' is none of those"):
        run_on(pydocs[0], dataset=str(tmp_path / "t.csv"))


def test_one_class_alone_can_be_scored(tmp_path: Path, pydocs) -> None:
    write_table(tmp_path / "t.csv", [("a lock", "concurrency")])
    result = run_on(pydocs[0], dataset=str(tmp_path / "t.csv"))
    assert result["examples"] == 1
    known = {row["class"]: row["recall"] for row in result["classes"] if row["examples"]}
    assert known.keys() == {"concurrency"}


def test_bad_rows_of_another_source_are_left_out_and_listed(tmp_path: Path, pydocs) -> None:
    write_table(tmp_path / "t.csv", [("a lock", "concurrency")] * 40 + [("a lock", "")])
    with pytest.raises(UserError, match="t.csv, line 42"):
        run_on(pydocs[0], dataset=str(tmp_path / "t.csv"))
    result = run_on(pydocs[0], dataset=str(tmp_path / "t.csv"), on_bad="skip")
    assert result["examples"] == 40
    assert [row["where"] for row in result["bad_examples"]] == [f"{tmp_path / 't.csv'}, line 42"]
    assert "40; 1 bad example(s) of the source left out" in to_markdown(result)


def test_a_text_cannot_break_the_report(tmp_path: Path, pydocs) -> None:
    write_table(tmp_path / "t.csv", [("a lock", "concurrency")])
    result = run_on(pydocs[0], dataset=str(tmp_path / "t.csv"))
    texts = ["a | b <script> `c`\nnew line", "half a pair \ud800", "word " * 500]
    result["mistakes"] = [
        {"true": "x", "predicted": "y", "confidence": 0.5, "where": "here", "text": text}
        for text in texts
    ]
    nothing = Results({"label": Scores(np.zeros((7, 7), np.int64), 0.0)})
    write_report(tmp_path / "out", result, nothing)
    text = (tmp_path / "out" / "evaluation.md").read_text(encoding="utf-8")
    rows = text.partition("## Most confident mistakes")[2].strip().splitlines()
    assert len(rows) == 2 + len(texts)
    assert rows[2].endswith(r"| a \| b &lt;script&gt; \`c\` new line |")
    assert rows[3].endswith("| half a pair ? |")
    assert len(rows[4]) < 250 and rows[4].endswith("… |")
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert written["mistakes"][0]["text"] == texts[0]


def write_table(path: Path, rows: list[tuple[str, str]], append: bool = False) -> None:
    with path.open("a" if append else "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows if append else [("text", "label"), *rows])
