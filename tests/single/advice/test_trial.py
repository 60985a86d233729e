"""What steps take, from the times of the steps of each rank."""

import numpy as np
import pytest

from app.advice.trial import seconds_of_slowest

TURNS = np.array([[1.0, 3.0, 1.0, 3.0], [3.0, 1.0, 3.0, 1.0]])  # two ranks that are slow in turn


@pytest.mark.parametrize(("every", "expected"), [(1, 3.0), (2, 2.0), (4, 2.0)])
def test_the_slowest_of_each_step_is_waited_for(every: int, expected: float) -> None:
    assert seconds_of_slowest(TURNS, every, 4) == expected


def test_a_slow_stretch_does_not_move_the_median() -> None:
    assert seconds_of_slowest(np.hstack([TURNS, 100 * TURNS, TURNS]), 1, 4) == 3.0


def test_steps_beyond_the_last_round_of_a_chunk_do_not_count() -> None:
    assert seconds_of_slowest(np.array([[1.0, 1.0, 1.0, 9.0]]), 3, 4) == 1.0
