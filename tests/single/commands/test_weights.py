"""Which weights evaluate, predict and export use, of a run with a moving average of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.__main__ import main
from app.checkpoints.init_from import load_weights
from app.commands.compare import read_run, table
from app.commands.evaluate_run import evaluate_run
from app.commands.saved_run import open_run
from app.distributed.world import World
from app.errors import UserError
from app.recipe import load
from app.rundir.files import list_checkpoints
from app.train import train
from tests.single.commands.predicting import save


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A short run with an average, and its metrics."""
    path = tmp_path_factory.mktemp("average") / "run"
    keys = {"run_dir": str(path), "epochs": 2, "global_batch_size": 64, "ema_examples": 2000}
    keys |= {"width": 4, "keep_best": "loss", "early_stopping_epochs": 5}
    return path, train(load(None, keys), world=World())


def test_evaluate_scores_the_average_or_the_last_weights_as_training_did(run, capsys) -> None:
    path, metrics = run
    for weights, key in ((None, "test_ema"), ("ema", "test_ema"), ("last", "test")):
        result = evaluate_run(path, {}, None, None, World(), "newest", weights)
        assert result["weights"] == (weights or "ema")
        assert result["loss"] == pytest.approx(metrics[f"{key}_loss"], rel=1e-6)
        assert result["accuracy"] == metrics[f"{key}_accuracy"]
        assert ("--weights" in result["command"]) == (weights is not None)
        told = {"ema": "the moving average of the weights", "last": "the last weights"}
        assert told[result["weights"]] in capsys.readouterr().out
    assert metrics["test_ema_loss"] != metrics["test_loss"]


def test_the_score_of_a_checkpoint_is_that_of_the_average(run) -> None:
    path, _ = run
    newest = list_checkpoints(path / "checkpoints")[-1]
    of_average = evaluate_run(path, {}, "validation", None, World())
    score = json.loads((newest / "score.json").read_text())
    assert score["loss"] == pytest.approx(of_average["loss"], rel=1e-6)


def test_predict_says_that_it_uses_the_average(run, tmp_path, capsys) -> None:
    path, image = run[0], save(tmp_path / "grey.png", 100)
    for flags, told in (([], True), (["--weights=last"], False)):
        output = str(tmp_path / "answers.jsonl")
        assert main(["predict", str(path), image, *flags, "--output", output]) == 0
        assert ("moving average of the weights" in capsys.readouterr().err) == told


@pytest.mark.full_matrix
def test_an_export_holds_the_average_and_its_card_says_so(run, tmp_path) -> None:
    from app.commands.export_model import export

    path, _ = run
    for weights, told in ((None, "moving average over about 2,000"), ("last", "of the last step")):
        place = export(path, "tflite", tmp_path / f"{weights}.tflite", None, "newest", weights)
        assert f"- weights: {told}" in place.with_name(f"{place.name}.md").read_text()


def test_a_run_without_an_average_has_one_kind_of_weights_only(tmp_path) -> None:
    config = load(None, {"run_dir": str(tmp_path / "run"), "epochs": 1, "width": 4})
    metrics = train(config, world=World())
    assert not {"test_ema_accuracy", "early_stopping"} & metrics.keys()
    with pytest.raises(UserError, match="--weights ema: .* trained without --ema-examples"):
        open_run(tmp_path / "run", "newest", "ema")
    assert open_run(tmp_path / "run", "newest", "last").uses == ""
    rows = [row[0] for row in table([read_run(tmp_path / "run", "run")])]
    assert "test accuracy" in rows and "test accuracy with ema" not in rows


def test_another_run_begins_with_the_last_weights_and_no_average(run) -> None:
    path, _ = run
    last, other = open_run(path, "newest", "last"), open_run(path, "newest", "last")
    for variable in [*other.classifier.variables, *other.classifier.weight_average.variables]:
        variable.assign(np.zeros(variable.shape))
    report = load_weights(path, other.classifier, other.plan)
    assert sorted(report.loaded) == sorted(v.path for v in other.classifier.trainable_variables)
    for one, two in zip(last.classifier.get_weights(), other.classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not other.classifier.weight_average.is_there


def test_the_comparison_has_a_row_for_it_and_knows_runs_that_stopped(run, tmp_path) -> None:
    path, metrics = run
    rows = {row[0]: row[1:] for row in table([read_run(path, "run")])}
    assert rows["test accuracy with ema"] == [f"{metrics['test_ema_accuracy']:.2%}"]
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.toml").write_text((path / "config.toml").read_text())
    stopped = {**metrics["early_stopping"], "ended_the_run": True}
    for kept, status in ((metrics["early_stopping"], "unfinished"), (stopped, "finished")):
        said = {**metrics, "epoch": 1, "early_stopping": kept}
        (copy / "metrics.json").write_text(json.dumps(said))
        assert read_run(copy, "copy").status.startswith(status)
