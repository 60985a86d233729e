"""A pretrained encoder as a user gives it: trained on ranks, then used without its directory."""

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.launching import app, local, run
from tests.single.pretrained.bert_files import write_encoder

PHRASES = {"letters": "a b c", "others": "f g h", "mixed": "a g i"}


def write_texts(place: Path) -> Path:
    rows = [f"{PHRASES[name]} {'abc'[n % 3]},{name}" for n in range(40) for name in PHRASES]
    place.write_text("\n".join(["text,label", *rows]) + "\n")
    return place


@pytest.mark.full_matrix
@pytest.mark.timeout(1200)
def test_an_encoder_is_trained_on_two_ranks_and_needed_no_more(tmp_path: Path) -> None:
    encoder, run_dir = write_encoder(tmp_path / "encoder"), tmp_path / "run"
    data = write_texts(tmp_path / "texts.csv")
    keys = ["--dataset", str(data), "--model", "bert", "--pretrained", str(encoder)]
    keys += ["--max-tokens", "32", "--epochs", "6", "--learning-rate", "5e-3", "--layer-decay"]
    keys += [
        "0.9",
        "--freeze",
        "embeddings",
        "--schedule",
        "linear",
        "--learning-rate-scaling",
        "none",
        "--global-batch-size",
        "8",
        "--run-dir",
        str(run_dir),
    ]
    done = run(local(2, "train", *keys), timeout_s=300)
    assert done.code == 0, done.all
    assert "begins with  " in done.out and "embeddings frozen" in done.out, done.all
    shutil.rmtree(encoder)

    # With the same keys, and at another number of ranks.
    done = run(app("train", *keys, "--epochs", "7", "--resume", "--quiet"), timeout_s=200)
    assert done.code == 0, done.all
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["epoch"] == 7 and metrics["world_size"] == 1
    assert metrics["test_accuracy"] > 0.5, done.all
    done = run(app("evaluate", str(run_dir), "--json"), timeout_s=100)
    assert json.loads(done.out)["accuracy"] == pytest.approx(metrics["test_accuracy"]), done.all
    done = run(app("export", str(run_dir), "--format", "savedmodel"), timeout_s=200)
    assert done.code == 0, done.all
    card = (run_dir / "export" / "savedmodel.md").read_text()
    assert "began with the pretrained weights" in card

    (tmp_path / "input.txt").write_text("a b c a\nh g\n")
    done = run(app("predict", str(run_dir), str(tmp_path / "input.txt")), timeout_s=99)
    assert done.code == 0, done.all


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "holds no config.json"),
        ({"--model": "cnn", "--dataset": "digits"}, "model 'cnn' reads no pretrained weights"),
        ({"--dataset": "digits"}, "does not read images"),
        ({"--pretrained": None}, "is not trained from nothing: give --pretrained DIR"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_loaded(tmp_path, keys, message) -> None:
    given = {"--dataset": "pydocs", "--model": "bert", "--pretrained": str(tmp_path), **keys}
    flags = [part for name, value in given.items() if value for part in (name, value)]
    done = run(app("train", *flags), timeout_s=60)
    assert done.code == 2, done.all
    assert message in done.err and done.err.count("\n") == 1, done.all
