"""What becomes of steps that were left out, and of a loss that jumps."""

import numpy as np
import pytest

from app.distributed.world import World
from app.errors import UserError
from app.health import FEWEST_STRETCHES, Health
from app.monitor.progress import Show

GOOD, BAD_GRADIENT, BAD_LOSS = np.zeros(3), np.array([0.0, 1, 0]), np.array([0.0, 1, 1])


class Told(Show):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def skipped(self, step: int, text: str) -> None:
        self.texts.append(text)


class Ranks(World):
    """Three ranks, of which this one speaks for all."""

    size = 3

    def __init__(self, said: list[str | None]):
        self.said = said

    def gather(self, value):
        return self.said


def test_each_row_of_bad_steps_is_named_once_and_ends_at_its_limit() -> None:
    told = Told()
    health = Health(Ranks([None, "conv/kernel", "loss"]), [told], most_in_a_row=3)
    for step, heard in enumerate([GOOD, BAD_GRADIENT, BAD_LOSS, GOOD, BAD_LOSS, BAD_GRADIENT]):
        assert not health.see_step(step, heard, None)
    told_each_time = (
        "left out on all ranks: the gradient of 'conv/kernel' was not finite on rank 1 "
        "(bad on 2 ranks)"
    )
    assert told.texts == [told_each_time, told_each_time]
    assert health.see_step(6, BAD_LOSS, None)
    error = str(health.too_many())
    assert (
        error.startswith("3 steps in a row") and "'conv/kernel' was not finite on rank 1" in error
    )


def test_a_loss_alone_is_named_too() -> None:
    told = Told()
    Health(World(), [told], 10).see_step(7, BAD_LOSS, "loss")
    assert told.texts == ["left out on all ranks: the loss was not finite on rank 0"]


def means(losses: list[float]) -> list[float]:
    """The running means after each stretch of 10 examples."""
    return (np.cumsum(losses) / np.arange(1, len(losses) + 1)).tolist()


@pytest.mark.parametrize(
    ("losses", "jumps_at"),
    [
        ([2.0] * 8, []),
        ([2.0] * 6 + [7.0, 2.0], [6]),
        ([2.0] * 6 + [float("nan"), float("nan")], [6, 7]),
        ([2.0] * (FEWEST_STRETCHES - 1) + [20.0], []),  # nothing to compare with yet
        ([0.01] * 6 + [0.4, 0.01], []),  # many times nothing is little
        ([3, 2.8, 2.5, 2.2, 2.0, 1.8, 1.7, 1.6], []),
    ],
)
def test_a_jump_is_a_loss_far_above_the_median_so_far(losses, jumps_at) -> None:
    health = Health(World(), [Told()], 10)
    found = [
        number
        for number, mean in enumerate(means(losses))
        if health.see_loss(number, mean, 10 * (number + 1))
    ]
    assert found == jumps_at


def test_what_jumped_is_not_what_later_losses_are_compared_with() -> None:
    health = Health(World(), [Told()], 10)
    losses = [1.0] * 6 + [50.0] * 20
    found = [health.see_loss(n, mean, 10 * (n + 1)) for n, mean in enumerate(means(losses))]
    assert found == [False] * 6 + [True] * 20


def test_training_goes_back_to_a_step_a_few_times_only() -> None:
    health = Health(World(), [Told()], 10)
    for _ in range(3):
        health.goes_back(15, 10, 0.5)
    health.goes_back(25, 20, 0.25)
    with pytest.raises(UserError, match="gone back to step 10 3 times"):
        health.goes_back(15, 10, 0.125)


def test_with_other_ranks_nothing_of_before_counts() -> None:
    """A newcomer knows nothing of it, and what a collective follows from must be the same."""
    old, new = (Health(Ranks([None, None, "loss"]), [Told()], most_in_a_row=3) for _ in range(2))
    for step in range(2):
        old.see_step(step, BAD_LOSS, None)
    for step in range(1, FEWEST_STRETCHES + 1):
        old.see_loss(step, 1.0, step)
    old.begin_anew()
    decided = [
        [one.see_step(step, BAD_LOSS, None) for step in range(3)]
        + [one.see_loss(step, 100.0, step) for step in range(1, 4)]
        for one in (old, new)
    ]
    assert decided[0] == decided[1] == [False, False, True, False, False, False]
