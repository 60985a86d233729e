"""Which rank is named when a run does not go on."""

import pytest

from app.pulse import Reading
from launch.watch import Seen, halted, stuck


def rank(number, phase="step", age_s=1.0, *, limit_s=120.0, waits=False, step=17, **seen):
    """A rank whose agent has just reported."""
    reading = Reading(step, phase, waits, False, age_s, limit_s)
    return Seen(
        number, **{"host": f"h{number}", "state": "S", "silent_s": 0.0, **seen}, reading=reading
    )


def late(number, phase="step", **seen):
    return rank(number, phase, 130.0, **seen)


def young(number):
    """A rank that has written nothing yet."""
    return Seen(number, f"h{number}", None, "R", 0.0)


NO_PROGRESS = "no progress for 130 s in"


@pytest.mark.parametrize(
    ("ranks", "named"),
    [
        ([rank(0), rank(1)], None),
        ([young(0), young(1)], None),
        ([late(0, limit_s=float("inf")), rank(1)], None),
        # Stopped, out of reach, or waiting for a disk: before all others.
        ([late(0), late(1, state="T")], f"rank 1 on h1: {NO_PROGRESS} step (step 17): its process"),
        ([late(0, "callbacks"), late(1, state="T")], "rank 1 on h1"),
        ([late(0), rank(1, state="T")], "rank 1 on h1"),
        ([rank(0), rank(1, state="T")], None),
        ([rank(0), rank(1, "preparation", 61.0, state="T", limit_s=600)], "rank 1 on h1"),
        ([late(0), late(1, state="D")], "rank 1 on h1"),
        ([late(0, waits=True), rank(1, "validation", state="D", limit_s=600)], None),
        ([rank(0), rank(1, silent_s=31.0)], "rank 1 on h1: no word from its host for 31 s"),
        ([late(0), late(1, state="T"), rank(2, silent_s=31.0)], "rank 2 on h2: no word"),
        ([rank(0), rank(1, silent_s=29.0)], None),
        # Busy with something of its own.
        ([late(0), late(1, "callbacks")], f"rank 1 on h1: {NO_PROGRESS} callbacks (step 17)"),
        ([late(0), late(1, "input", step=16)], "rank 1 on h1"),
        ([late(0, "agreement", waits=True), late(1, "checkpoint")], "rank 1 on h1"),
        # The others wait for rank 1, which may take its time.
        ([late(0), rank(1, "validation", 130.0, limit_s=600.0)], None),
        ([late(0), young(1)], None),
        # Behind the others.
        ([late(0, step=18), late(1, step=17)], f"rank 1 on h1: {NO_PROGRESS} step (step 17)"),
        ([late(0, "agreement", waits=True), late(1, "step", step=16)], "rank 1 on h1"),
        # Nothing tells them apart.
        ([late(0), late(1)], "no rank has finished step 18 for 130 s"),
        ([late(0)], f"rank 0 on h0: {NO_PROGRESS} step (step 17)"),
        ([late(0, host="localhost")], "rank 0: no progress"),
    ],
)
def test_the_rank_that_the_others_wait_for_is_named(ranks, named):
    sentence = stuck(ranks)
    assert sentence is None if named is None else sentence.startswith(named), sentence


def test_a_stopped_rank_explains_why_others_failed():
    assert halted([rank(0), rank(1)]) is None
    assert "rank 1 on h1" in halted([rank(0), rank(1, state="T")])
