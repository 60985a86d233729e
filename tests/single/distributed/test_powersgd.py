"""PowerSGD where matrices are of other sizes than usual, or have been zero."""

import numpy as np
import pytest

from app.distributed.options import Wire
from app.state import Kind
from tests.single.distributed.reducing import Reducing, gradients, on

SHAPE = (60, 40)


def matrix_of_rank(rank: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(SHAPE[0], rank)) @ random.normal(size=(rank, SHAPE[1]))


@pytest.mark.parametrize("first_rank", [0, 1])
def test_what_was_zero_is_sent_once_it_is_not(first_rank: int) -> None:
    """Of an embedding whose first words never occur: unit vectors find nothing in their rows."""
    first, then = matrix_of_rank(first_rank), matrix_of_rank(4, seed=1)
    first[:8] = then[:8] = 0

    def work(world):
        reducing = Reducing("powersgd", world, (SHAPE,), Wire(powersgd_rank=4))
        return [reducing.step([one / 2])[0] for one in (first, first, then, then, then)]

    sums = on(2, work)[0]
    np.testing.assert_allclose(sum(sums), 2 * first + 3 * then, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_the_size_of_a_gradient_does_not_matter(scale: float) -> None:
    def steps(times: float):
        def work(world):
            reducing = Reducing("powersgd", world, (SHAPE,), Wire(powersgd_rank=2))
            own = [gradients(world.rank, step, (SHAPE,))[0] for step in range(4)]
            return [reducing.step([np.float32(times) * one])[0] for one in own]

        return on(2, work)[0]

    for usual, scaled in zip(steps(1.0), steps(scale), strict=True):
        np.testing.assert_allclose(scaled / np.float32(scale), usual, atol=1e-3)


def test_four_ranks_owe_less_than_a_few_gradients_after_many_steps() -> None:
    """What is owed stays bounded: the warm start finds the directions that are left (the paper's
    Theorem 1 needs that)."""

    def work(world):
        reducing = Reducing("powersgd", world, (SHAPE,), Wire(powersgd_rank=4))
        for step in range(60):
            reducing.step([gradients(world.rank, step, (SHAPE,))[0]])
        return reducing.state(Kind.SUMMED)[0]

    owed = np.linalg.norm(sum(on(4, work)))
    one = np.linalg.norm(sum(gradients(rank, 0, (SHAPE,))[0] for rank in range(4)))
    assert owed < 10 * one
