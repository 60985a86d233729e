"""Bad input given to the command line, on one rank and on two."""

import json
from pathlib import Path

import pytest

from app.__main__ import main
from tests.integration.bad_input import MEND, csv_of, picture, rows_of
from tests.integration.launching import run


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_one_rank_ends_with_one_message_or_trains_without_it(photos, capsys, on_bad) -> None:
    (photos / "cat" / "zz.png").write_bytes(picture(99)[:-40])
    directory = photos.parent / "run"
    arguments = ["train", "--dataset", str(photos), "--epochs", "1", "--on-bad", on_bad]
    code = main([*arguments, "--per-rank-batch-size", "8", "--run-dir", str(directory)])
    out, err = capsys.readouterr()
    if on_bad == "error":
        assert (code, out) == (2, "")
        assert err == f"error: {photos}/cat/zz.png: truncated or damaged PNG{MEND}\n"
        assert not directory.exists()
        return
    assert (code, err) == (0, "")
    assert "1 bad left out (bad_examples.jsonl)" in out
    assert rows_of(directory) == [
        {"where": f"{photos}/cat/zz.png", "reason": "truncated or damaged PNG"}
    ]
    assert json.loads((directory / "metrics.json").read_text())["bad_examples"] == 1


def on_two_ranks(dataset: Path, *options: str):
    train = ["train", "--dataset", str(dataset), "--epochs", "1", "--per-rank-batch-size", "8"]
    train += ["--run-dir", str(dataset.parent / "run"), *options]
    return run(["launch/local.sh", "-n", "2", *train], timeout_s=120)


@pytest.mark.full_matrix
def test_two_ranks_end_with_one_message_and_leave_nothing(photos: Path) -> None:
    (photos / "dog" / "zz.png").write_bytes(picture(99)[:-40])  # decoded by one rank alone
    done = on_two_ranks(photos, "--hold", "stream")
    assert done.code == 2, done.all
    assert done.err.count("truncated or damaged PNG") == 1, done.all
    assert len(done.err.strip().splitlines()) == 1, done.all
    assert f"{photos}/dog/zz.png: " in done.err, done.all
    assert sorted(path.name for path in photos.parent.iterdir()) == ["photos"]


@pytest.mark.full_matrix
def test_two_ranks_leave_out_the_same_rows(write) -> None:
    path = write("t.csv", csv_of("数据,a,yes", "words,"))
    done = on_two_ranks(path, "--model", "bag", "--on-bad", "skip")
    assert done.code == 0, done.all
    assert done.err == "", done.all
    directory = path.parent / "run"
    assert rows_of(directory) == [
        {
            "where": f"{path}, line 42",
            "reason": "3 fields, but the header has 2: quote texts that hold commas or line breaks",
        },
        {"where": f"{path}, line 43", "reason": "column 'label' is empty"},
    ]
    metrics = json.loads((directory / "metrics.json").read_text())
    assert (metrics["bad_examples"], metrics["world_size"]) == (2, 2)


@pytest.mark.full_matrix
def test_two_ranks_refuse_too_many_bad_examples_with_one_message(photos: Path) -> None:
    for number in range(3):
        (photos / "cat" / f"{number}.jpg").write_bytes(b"")
    done = on_two_ranks(photos, "--on-bad", "skip")
    assert done.code == 2, done.all
    assert done.err.startswith("error: 3 of 43 examples are bad"), done.all
    assert len(done.err.strip().splitlines()) == 1, done.all
    assert not (photos.parent / "run").exists()
