"""`python -m app network` and `advise` between two ranks, as a user starts them."""

import json
from pathlib import Path

import pytest

from tests.integration.launching import app, horovodrun, run

QUICK = ["--tries", "3", "--seconds", "0.5", "--dataset", "digits", "--width", "8"]


@pytest.mark.full_matrix
def test_two_ranks_are_measured_and_advised(tmp_path: Path) -> None:
    """A choice made of what was tried, and numbers of it that belong together."""
    command = app("advise", *QUICK, "--output", str(tmp_path))
    finished = run(horovodrun(2, "gloo", *command), timeout_s=240)
    assert finished.code == 0, finished.all
    assert finished.out.count("Recommended:") == 1, finished.all  # one rank speaks
    found = json.loads((tmp_path / "advice.json").read_text())
    assert found["tried"][0]["label"] == "none, every_step"
    assert len(found["tried"]) == 3 and not found["refused"], finished.all
    sent = {one["label"]: one["sent_bytes"] for one in found["tried"]}
    signals = 4  # what ranks tell each other travels along (app/distributed/signals.py)
    assert sent["none, every_step"] == 4 * (found["parameters"] + signals)
    for one in found["predicted"]:
        label = f"{one['compression']}, {one['sync']}"
        assert (one["step_s"] is None) == (one["sync"] == "hierarchical"), label
    assert (tmp_path / "advice.png").exists()


def test_two_ranks_measure_their_network(tmp_path: Path) -> None:
    command = app("network", "--max-mb", "1", "--seconds", "2", "--output", str(tmp_path))
    finished = run(horovodrun(2, "gloo", *command), timeout_s=120)
    assert finished.code == 0, finished.all
    found = json.loads((tmp_path / "network.json").read_text())
    (part,) = found["parts"]
    assert part["ranks"] == len(found["hosts"]) == 2
    for kind, line in part["fits"].items():
        own = [point["seconds"] for point in part["points"] if point["kind"] == kind]
        assert len(own) >= 4 and min(own) > 0
        assert line["alpha"] >= 0 and line["beta"] >= 0
    assert (tmp_path / "network.png").exists()
