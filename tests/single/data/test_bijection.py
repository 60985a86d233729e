"""The shuffle without an array: each place once, and nothing to be seen in where it goes."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.data.bijection import Bijections
from app.data.order import Balanced, Groups, Shuffled, Windowed

CELLS = 40


def shuffled(size: int, seed: int, epoch: int = 0) -> np.ndarray:
    return Shuffled(size, seed, epoch)[np.arange(size)]


def deviation(counts: np.ndarray, freedom: int | None = None) -> float:
    """Chi-square against equal counts, in its standard deviations from what is expected."""
    freedom = freedom or counts.size - 1
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2).sum() / expected - freedom) / math.sqrt(2 * freedom)


def grid(left: np.ndarray, right: np.ndarray, size: int) -> np.ndarray:
    """How many pairs fall in each cell of a plane of size * size."""
    cells = (left * CELLS // size) * CELLS + right * CELLS // size
    return np.bincount(cells, minlength=CELLS**2)


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=5), st.integers(0, 2**63))
def test_each_of_many_permutations_takes_each_place_once(sizes: list[int], seed: int) -> None:
    shuffle = Bijections(np.array(sizes), np.random.PCG64(seed).random_raw(len(sizes)))
    places = np.concatenate([np.arange(size) for size in sizes])
    which = np.repeat(np.arange(len(sizes)), sizes)
    gone = shuffle(places, which)
    for number, size in enumerate(sizes):
        np.testing.assert_array_equal(np.sort(gone[which == number]), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9, 25, 999, 1000, 1001, 2**16, 10**6 + 3])
def test_small_and_large_sizes_are_permuted_exactly(size: int) -> None:
    assert np.bincount(shuffled(size, 5), minlength=size).tolist() == [1] * size


@pytest.mark.parametrize("size", [2**31 + 11, 10**12 + 39, 2**60 - 1])
def test_sizes_beyond_any_array_stay_inside_and_never_meet(size: int) -> None:
    places = np.r_[np.arange(5000), size - 1 - np.arange(5000)]
    gone = Bijections(np.array([size]), np.array([7], np.uint64))(places)
    assert len(np.unique(gone)) == 10_000 and gone.min() >= 0 and gone.max() < size


def test_sizes_that_the_arithmetic_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="less than 2\\^60"):
        Bijections(np.array([2**60]), np.array([7], np.uint64))


@pytest.mark.parametrize(("size", "seeds"), [(2, 4000), (3, 12_000), (4, 12_000), (5, 24_000)])
def test_over_seeds_every_permutation_of_a_few_is_equally_frequent(size: int, seeds: int) -> None:
    keys = np.concatenate([np.random.PCG64([seed, 0]).random_raw(1) for seed in range(seeds)])
    places = np.tile(np.arange(size), seeds)
    gone = Bijections(np.full(seeds, size), keys)(places, np.repeat(np.arange(seeds), size))
    rows = gone.reshape(seeds, size) @ size ** np.arange(size)
    every = [size ** np.arange(size) @ one for one in itertools.permutations(range(size))]
    counts = np.array([np.count_nonzero(rows == one) for one in every])
    assert counts.sum() == seeds and deviation(counts) < 4


def test_over_seeds_every_place_of_ten_goes_everywhere_equally_often() -> None:
    keys = np.concatenate([np.random.PCG64([seed, 3]).random_raw(1) for seed in range(5000)])
    places = np.tile(np.arange(10), 5000)
    gone = Bijections(np.full(5000, 10), keys)(places, np.repeat(np.arange(5000), 10))
    assert deviation(np.bincount(places * 10 + gone), freedom=81) < 4


@pytest.mark.parametrize("size", [1797, 50_000, 2**18])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_an_order_has_no_visible_structure(size: int, seed: int) -> None:
    order, places = shuffled(size, seed), np.arange(size)
    noise = 4 / math.sqrt(size)
    assert deviation(grid(places, order, size), (CELLS - 1) ** 2) < 4  # positions are uniform
    assert deviation(grid(order[:-1], order[1:], size)) < 4  # and neighbours unrelated
    steps = np.diff(order) % size
    assert deviation(np.bincount(steps * 100 // size, minlength=100)) < 4
    for near in (1, 2, 64):
        assert abs(np.corrcoef(order[:-near], order[near:])[0, 1]) < noise
    last_bits = (places % 16) * 16 + order % 16
    assert deviation(np.bincount(last_bits, minlength=256)) < 4
    assert np.count_nonzero(order == places) < 10  # 1 is expected
    assert np.count_nonzero(np.abs(np.diff(order)) == 1) < 12  # 2 are


@pytest.mark.parametrize("other", [(0, 1), (1, 0), (2**31, 0), (0, 500)])
def test_the_orders_of_other_seeds_and_epochs_are_unrelated(other: tuple[int, int]) -> None:
    size = 50_000
    first, second = shuffled(size, 0, 0), shuffled(size, *other)
    assert deviation(grid(first, second, size)) < 4
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(size)
    assert np.count_nonzero(first == second) < 10  # 1 is expected


def test_windows_and_classes_are_shuffled_as_well() -> None:
    files = Groups(np.repeat(np.arange(40), 5000))
    order = Windowed(files, 3, 1)[np.arange(200_000)]
    spans = [len(np.unique(span)) for span in order.reshape(40, 5000) // 5000]
    assert max(spans) <= 8 and np.mean(spans) >= 3  # files among 5000 places; a window has 3 or 4
    assert abs(np.corrcoef(order[:-1] % 5000, order[1:] % 5000)[0, 1]) < 0.01
    labels = np.r_[np.zeros(90_000, np.int64), np.ones(10_000, np.int64)]
    drawn = Balanced(Groups(labels), 3, 1)[np.arange(100_000)]
    assert deviation(np.bincount(np.flatnonzero(labels[drawn]) // 2500, minlength=40)) < 4
    assert deviation(grid(np.arange(100_000), np.argsort(np.argsort(drawn)), 100_000)) < 4


def test_an_epoch_of_a_billion_examples_begins_at_once() -> None:
    began = time.perf_counter()
    order = Shuffled(10**9, 0, 0)
    batch = order[np.arange(8192)]
    assert time.perf_counter() - began < 1
    assert len(order) == 10**9 and len(np.unique(batch)) == 8192
