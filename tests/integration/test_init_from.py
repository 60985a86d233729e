"""`--init-from` as a user gives it: on ranks that were launched, in a run that is resumed later."""

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.launching import app, local, run

WORDS = {"train.csv": ["sun", "rain", "moon"], "more.csv": ["moon", "sun", "star"]}


@pytest.mark.full_matrix
@pytest.mark.timeout(1200)
def test_ranks_begin_with_the_weights_of_another_run(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    keys = ["--dataset", "digits", "--width", "8", "--learning-rate", "0.01"]
    done = run(app("train", *keys, "--epochs", "4", "--run-dir", str(old)), timeout_s=200)
    assert done.code == 0, done.all
    begins = [*keys, "--learning-rate", "1e-9", "--run-dir", str(new), "--init-from", str(old)]
    done = run(local(2, "train", *begins, "--epochs", "1"), timeout_s=200)
    assert done.code == 0, done.all
    assert "6 of 6 variables from " in done.out, done.all
    assert "loaded: conv1/kernel" in (new / "logs" / "rank-000.log").read_text()
    scores = [json.loads((one / "metrics.json").read_text()) for one in (old, new)]
    assert scores[0]["test_accuracy"] > 0.5
    assert scores[1]["test_accuracy"] == scores[0]["test_accuracy"]

    # From here on its own checkpoint counts, and the other run is not needed.
    shutil.rmtree(old)
    done = run(
        app("train", "--run-dir", str(new), "--resume", "--epochs", "2", "--quiet"), timeout_s=200
    )
    assert done.code == 0, done.all
    done = run(app("train", *keys, "--init-from", str(old)), timeout_s=100)
    assert done.code == 2, done.all
    assert done.err == (
        f"error: init_from = '{old}' does not exist: give a run, checkpoint or file\n"
    ), done.all


@pytest.mark.full_matrix
@pytest.mark.timeout(1200)
def test_texts_with_another_vocabulary_begin_with_the_rows_of_shared_words(tmp_path: Path) -> None:
    keys = ["--model", "bag", "--width", "8", "--learning-rate", "0.05", "--epochs", "3"]
    for name, words in WORDS.items():
        rows = [f"{word} {number % 3},{word}" for number in range(40) for word in words]
        (tmp_path / name).write_text("\n".join(["text,label", *rows]) + "\n")
        run_dir = tmp_path / Path(name).stem
        given = ["--dataset", str(tmp_path / name), "--run-dir", str(run_dir)]
        if name == "more.csv":
            given += ["--init-from", str(tmp_path / "train")]
        done = run(app("train", *keys, *given), timeout_s=200)
        assert done.code == 0, done.all
    assert "1 of 3 variables from " in done.out, done.all
    expected = "1 of 8 rows of token_embedding/embeddings as initialised, since their tokens are"
    assert expected in done.out, done.all
    assert "logits/kernel (other classes: only one of the runs has 'rain')" in done.out, done.all
