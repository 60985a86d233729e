"""A run that begins with weights of timm; later it needs them no more."""

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.launching import app, run
from tests.single.pretrained.timm_files import write_directory

DATASET = "synthetic-image:examples=96,size=24,classes=3"


@pytest.mark.full_matrix
@pytest.mark.timeout(1800)
def test_a_run_begun_with_weights_of_timm_needs_their_directory_only_to_begin(
    tmp_path: Path,
) -> None:
    weights = write_directory(tmp_path / "weights", "resnet18", image_size=32)
    old, moved = tmp_path / "old", tmp_path / "moved"
    keys = ["--dataset", DATASET, "--model", "resnet18", "--global-batch-size", "16"]
    keys += ["--learning-rate", "0.01", "--freeze", "encoder", "--epochs", "3"]
    begin = app("train", *keys, "--pretrained", str(weights), "--run-dir", str(old))
    done = run(begin, timeout_s=300)
    assert done.code == 0, done.all
    assert "images       32x32x3" in done.out, done.all
    assert f"begins with  {weights} (SHA-256 " in done.out, done.all
    metrics = json.loads((old / "metrics.json").read_text())

    shutil.rmtree(weights)
    old.rename(moved)
    done = run(app("evaluate", str(moved)), timeout_s=300)
    assert done.code == 0, done.all
    report = json.loads((moved / "evaluations" / "test" / "evaluation.json").read_text())
    assert report["accuracy"] == metrics["test_accuracy"]
    assert report["loss"] == pytest.approx(metrics["test_loss"], rel=1e-5)
    done = run(app("export", str(moved), "--format", "keras"), timeout_s=300)
    assert done.code == 0, done.all
    go_on = app("train", "--run-dir", str(moved), "--resume", "--epochs", "4")
    done = run(go_on, timeout_s=300)
    assert done.code == 0, done.all

    begin[-1] = str(tmp_path / "new")
    done = run(begin, timeout_s=100)
    assert done.code == 2, done.all
    assert done.err == f"error: pretrained = '{weights}' is no directory\n", done.all
