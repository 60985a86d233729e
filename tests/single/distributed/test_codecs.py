"""int8, terngrad, topk and powersgd against their definitions in NumPy."""

import numpy as np
import pytest

from app.distributed.options import Wire
from app.distributed.reducers.int8 import refuse_many
from app.distributed.reducers.terngrad import TernGrad
from app.state import Kind
from tests.single.distributed.reducing import UNBIASED, Reducing, gradients, on

SHAPE = (40, 50)
ONE = (SHAPE,)
DRAWS = 120


def draws(name: str, ranks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the sums of the same gradients in many steps, the exact sum, the largest element)."""
    own = [gradients(rank, 0, ONE)[0] for rank in range(ranks)]

    def work(world):
        reducing = Reducing(name, world, ONE)
        return [reducing.step([own[world.rank]])[0] for _ in range(DRAWS)]

    return np.array(on(ranks, work)[0]), np.sum(own, axis=0), np.abs(own).max()


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_of_many_draws_is_the_exact_sum(monkeypatch, name: str, ranks: int) -> None:
    monkeypatch.setattr(TernGrad, "clips", False)
    found, exact, largest = draws(name, ranks)
    unit = largest / (127 // ranks) if name == "int8" else largest
    # Of a number rounded up or down at random, no variance is above a quarter of the step squared.
    deviation = np.sqrt(ranks / 4) * unit
    errors = (found.mean(axis=0) - exact) / (deviation / np.sqrt(DRAWS))
    assert np.abs(errors).max() < 5
    # Nor is there a bias that all elements share.
    assert abs(errors.mean()) < 5 / np.sqrt(errors.size)
    assert len(np.unique(found[:, 0, 0])) > 1


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_int8_sends_whole_numbers_of_a_shared_unit_and_never_wraps(ranks: int) -> None:
    """Every rank's largest element is at the end of the range, and of the same sign."""

    def work(world):
        gradient = gradients(world.rank, 0, ONE)[0]
        gradient[0, 0] = 10.0
        return Reducing("int8", world, ONE).step([gradient])[0]

    total = on(ranks, work)[0]
    unit = 10.0 / (127 // ranks)
    np.testing.assert_allclose(total / unit, np.round(total / unit), atol=1e-3)
    assert total[0, 0] == pytest.approx(10.0 * ranks, rel=1e-6)
    exact = sum(gradients(rank, 0, ONE)[0] for rank in range(ranks))
    assert np.abs((total - exact).ravel()[1:]).max() <= ranks * unit * 1.0001


def test_int8_is_refused_above_eight_ranks() -> None:
    refuse_many(8)
    with pytest.raises(ValueError, match="'int8' with 9 ranks: .* sync = 'hierarchical'"):
        refuse_many(9)


def test_terngrad_sends_ternary_numbers_of_a_clipped_scale() -> None:
    def work(world):
        gradient = gradients(world.rank, 0, ONE)[0]
        gradient[0, 0] = -50.0
        return Reducing("terngrad", world, ONE).step([gradient])[0]

    own = [gradients(rank, 0, ONE)[0] for rank in range(3)]
    for gradient in own:
        gradient[0, 0] = -50.0
    scale = max(2.5 * np.sqrt((gradient**2).mean()) for gradient in own)
    total = on(3, work)[0]
    multiples = total / scale
    np.testing.assert_allclose(multiples, np.round(multiples), atol=1e-4)
    assert set(np.round(multiples).astype(int).ravel()) == set(range(-3, 4))
    assert multiples[0, 0] == pytest.approx(-3, abs=0.2)


@pytest.mark.parametrize("name", UNBIASED)
def test_a_run_draws_the_same_again_and_ranks_steps_and_seeds_do_not(name: str) -> None:
    def first_two(seed: int):
        def work(world):
            reducing = Reducing(name, world, ONE, Wire(seed=seed))
            return [reducing.step(gradients(0, 0, ONE))[0] for _ in range(2)]

        return on(2, work)[0]

    one, two = first_two(1)
    np.testing.assert_array_equal([one, two], first_two(1))
    assert (one != two).any() and (one != first_two(2)[0]).any()
    # Equal gradients on both ranks are rounded each in its own way: sums are not all even.
    unit = np.abs(gradients(0, 0, ONE)[0]).max() / 63 if name == "int8" else None
    if unit:
        assert (np.round(one / unit).astype(int) % 2).any()


def test_topk_sends_the_largest_of_what_is_owed() -> None:
    ratio, k = 0.05, 100

    def work(world):
        reducing = Reducing("topk", world, ONE, Wire(topk_ratio=ratio))
        return [reducing.step(gradients(world.rank, step, ONE))[0] for step in range(3)]

    owed = [np.zeros(SHAPE) for _ in range(2)]
    for step, total in enumerate(on(2, work)[0]):
        wanted = np.zeros(SHAPE)
        for rank in range(2):
            owed[rank] = owed[rank] + gradients(rank, step, ONE)[0]
            least = np.sort(np.abs(owed[rank]).ravel())[-k]  # small enough for a whole sample
            sent = np.where(np.abs(owed[rank]) >= least, owed[rank], 0)
            owed[rank] -= sent
            wanted += sent
        np.testing.assert_allclose(total, wanted, atol=1e-5)


def test_topk_of_everything_is_sgd_with_momentum_and_clips_on_each_rank() -> None:
    wire = Wire(topk_ratio=1.0, momentum=0.9, clip_norm=3.0)
    shapes = (SHAPE, (50,))

    def work(world):
        reducing = Reducing("topk", world, shapes, wire)
        return [reducing.step(gradients(world.rank, step, shapes)) for step in range(3)]

    velocity = [np.zeros(shape) for shape in shapes]
    for step, sums in enumerate(on(2, work)[0]):
        for rank in range(2):
            own = gradients(rank, step, shapes)
            norm = np.sqrt(sum((one**2).sum() for one in own))
            own = [one * 3.0 / np.sqrt(2) / norm for one in own]
            for index in range(2):
                velocity[index] = velocity[index] * (0.9 if rank == 0 else 1.0) + own[index]
        for got, wanted in zip(sums, velocity, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_powersgd_is_one_power_iteration_from_the_last_steps_matrix() -> None:
    def work(world):
        reducing = Reducing("powersgd", world, ONE, Wire(powersgd_rank=2))
        start = reducing.state(Kind.REPLICATED)[0]
        return start, [reducing.step(gradients(world.rank, step, ONE))[0] for step in range(3)]

    start, sums = on(2, work)[0]
    owed = [np.zeros(SHAPE) for _ in range(2)]
    for step, total in enumerate(sums):
        exact = [owed[rank] + gradients(rank, step, ONE)[0] for rank in range(2)]
        basis = np.linalg.qr(sum(exact) @ start)[0]
        start = sum(exact).T @ basis
        np.testing.assert_allclose(total, basis @ start.T, atol=2e-4)
        assert np.linalg.matrix_rank(total, tol=1e-2) == 2
        owed = [one - basis @ (basis.T @ one) for one in exact]


@pytest.mark.parametrize("rank", [0, 1])
def test_powersgd_of_a_matrix_of_low_rank_is_exact_and_bears_dependent_columns(rank: int) -> None:
    random = np.random.default_rng(0)
    low = random.normal(size=(40, rank)) @ random.normal(size=(rank, 50))

    def work(world):
        reducing = Reducing("powersgd", world, ONE, Wire(powersgd_rank=4))
        return [reducing.step([low / 2])[0] for _ in range(3)]

    for total in on(2, work)[0]:
        np.testing.assert_allclose(total, low, atol=1e-4)


def test_powersgd_sends_a_matrix_whole_that_it_would_not_make_smaller() -> None:
    shapes = ((600, 3), SHAPE)

    def work(world):
        reducing = Reducing("powersgd", world, shapes, Wire(powersgd_rank=3))
        return reducing.step(gradients(world.rank, 0, shapes))

    exact = [sum(one) for one in zip(*(gradients(r, 0, shapes) for r in range(2)), strict=True)]
    whole, low = on(2, work)[0]
    np.testing.assert_allclose(whole, exact[0], atol=1e-5)
    assert np.abs(low - exact[1]).max() > 0.1
