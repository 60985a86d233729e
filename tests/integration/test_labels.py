"""Two labels from the table to the answer, as a user goes there; trained and evaluated on two
ranks."""

import json
from pathlib import Path

import pytest

from tests.integration.launching import app, local, run
from tests.single.commands.heads_runs import UNKNOWN, text_rows, write_rows

pytestmark = pytest.mark.full_matrix  # slow: CI runs it


def test_two_labels_are_learned_calibrated_scored_and_predicted(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.csv", ("text", "intent", "domain"), text_rows(400))
    directory = str(tmp_path / "run")
    keys = ["--dataset", str(data), "--label-key", "intent,domain", "--task-weights", "1,0.5"]
    keys += ["--model", "bag", "--width", "8", "--learning-rate", "0.05", "--epochs", "6"]
    keys += ["--global-batch-size", "32", "--validation", "0.2", "--run-dir", directory, "--json"]
    done = run(local(2, "train", *keys), timeout_s=240)
    assert done.code == 0, done.all
    assert "labels     intent (5 classes), domain (2 classes, weight 0.5" in done.all
    assert "test accuracy  intent " in done.all
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test_heads"]["domain"]["accuracy"] > 0.7

    done = run(app("calibrate", directory, "--json"), timeout_s=120)
    assert done.code == 0, done.all
    assert set(json.loads(done.out)["temperatures"]) == {"intent", "domain"}

    command = local(2, "evaluate", directory, "--unknown-class", UNKNOWN)
    done = run(command, timeout_s=240)
    assert done.code == 0, done.all
    assert f"{UNKNOWN}: recall" in done.all and "before calibration" in done.all
    result = json.loads((tmp_path / "run" / "evaluations" / "test" / "evaluation.json").read_text())
    assert result["accuracy"] == metrics["test_accuracy"]
    assert result["heads"]["intent"]["unknown_class"]["auroc"] > 0.6

    (tmp_path / "texts.txt").write_text("a b c thank\n")
    command = app("predict", directory, str(tmp_path / "texts.txt"), "--abstain-below", "1")
    done = run(command, timeout_s=120)
    assert done.code == 0, done.all
    heads = json.loads(done.out)["heads"]
    assert heads["intent"]["class"] is None  # one label in ten is wrong: nothing is certain
    assert [next(iter(one["probabilities"])) for one in heads.values()] == ["thank", "help"]


def test_a_wrong_probability_or_run_is_one_line(tmp_path: Path) -> None:
    done = run(app("predict", str(tmp_path), "-", "--abstain-below", "2"), timeout_s=60)
    assert done.code == 2 and "expected a number from 0 to 1, got '2'" in done.err, done.all
    done = run(app("calibrate", str(tmp_path)), timeout_s=60)
    assert done.code == 2 and "holds no run" in done.err, done.all
