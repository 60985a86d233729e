"""Ranks of one host are killed while they train, and the run ends as if they were not.

On several hosts: tests/cluster/test_elastic.py; at random moments: tests/benchmarks/chaos.py.
"""

import os
import signal
import time

import pytest

from app.distributed.reducers import COMPRESSIONS
from tests.integration.elastic import DIGITS, Story, results, shown
from tests.integration.launched import Launched

WAIT_S, SLOW_MS = 300.0, 300
EPOCHS = 8
OPTIONS = ["--epochs", str(EPOCHS), "--commit-every-steps", "5", "--validation", "0.1", "--json"]
# State of a run beside its network and its optimizer; patience is longer than the run.
BESIDE = ["--ema-examples", "500", "--early-stopping-epochs", "20"]
VARIANTS = {
    **{name: ["--compression", name] for name in COMPRESSIONS if name != "none"},
    "local": ["--sync", "local", "--sync-every-steps", "5"],
    "delayed": ["--sync", "delayed", "--sync-every-steps", "5"],
    "overlapped": ["--sync", "overlapped", "--optimizer", "sgd"],
    "accumulated": ["--backward-passes-per-step", "2"],
    "resnet18": ["--model", "resnet18", *BESIDE],
}
IN_CI = ("delayed",)
CHOSEN = {
    name: options
    for name, options in VARIANTS.items()
    if name in IN_CI or os.environ.get("EVERY_PAIR") == "1"
}


@pytest.fixture
def killed(tmp_path):
    """Trains with three ranks, kills one in the middle of an epoch, and has another one take its
    place; gives all that was printed."""

    def train(victim, *options):
        story = Story(tmp_path / "notes")
        arguments = [*DIGITS, *OPTIONS, *options, "--run-dir", str(tmp_path / "run")]
        run = Launched(3, arguments, tmp_path, story.environ)
        story.slow(SLOW_MS)
        until = time.monotonic() + WAIT_S
        with shown(story, run.text):
            try:
                assert run.reaches(lambda: story.step >= 7, until)
                kill(run, story, victim, until)
                story.slow(0)
                run.ends(until)
                assert run.process.returncode == 0
                assert run.left_behind(killed=True) == []
            finally:
                run.end()
            assert story.problems(EPOCHS) == []
            return run.text()

    return train


def kill(run, story, rank, until):
    """Kill a rank; the others go on, and a newcomer takes its place."""
    (victim,) = [member for member in story.members() if member.rank == rank]
    now = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    assert run.reaches(lambda: story.goes_on([victim.pid], now), until)
    assert run.reaches(lambda: story.trains(3), until)


def test_a_run_with_a_rank_killed_counts_every_example_once(killed):
    text = killed(1, *BESIDE)
    said = results(text)
    assert len(said) == 1 and said[0]["step"] == 88 and said[0]["world_size"] == 3, text
    assert said[0]["early_stopping"]["best_epoch"] > 0 and said[0]["test_ema_loss"] < 2.3, text
    assert text.count("going on with 2 ranks") == text.count("2 -> 3 ranks at step ") == 1, text


@pytest.mark.full_matrix
@pytest.mark.parametrize("options", CHOSEN.values(), ids=CHOSEN.keys())
def test_so_it_does_with_every_way_to_exchange(killed, options):
    """All of them with EVERY_PAIR=1 in the environment, which takes minutes."""
    assert "restarting all ranks" not in killed(0, *options)
