"""Random numbers made by hashing a counter."""

import numpy as np
import pytest

from app.distributed.reducers.random_bits import key_of, mixed, uniform

MANY = 200_000


def numbers(*key: int, elements: int = MANY) -> np.ndarray:
    return uniform(elements, key_of(*key)).numpy()


def test_lowbias32_is_the_published_mixer() -> None:
    def reference(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D & 0xFFFFFFFF
        x ^= x >> 15
        x = x * 0x846CA68B & 0xFFFFFFFF
        return x ^ x >> 16

    words = np.array([0, 1, 2, 12345, 2**31, 2**32 - 1], np.uint32)
    assert mixed(words).numpy().tolist() == [reference(int(word)) for word in words]


@pytest.mark.parametrize(
    "key", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 7, 3, 1), (2**31 - 1, 10**6, 7, 2)]
)
def test_numbers_are_uniform(key: tuple[int, ...]) -> None:
    found = numbers(*key)
    assert found.min() >= 0 and found.max() < 1
    counts = np.histogram(found, 100, (0, 1))[0]
    # Chi-squared of 99 degrees of freedom: a mean of 99, a standard deviation of 14.
    assert ((counts - MANY / 100) ** 2 / (MANY / 100)).sum() < 99 + 5 * 14
    # Rounding compares with numbers as small as a thousandth.
    assert abs((found < 0.001).mean() - 0.001) < 5 * np.sqrt(0.001 / MANY)
    low_bits = np.round(found * 2**24).astype(np.int64) & 1
    assert abs(low_bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(MANY)


@pytest.mark.parametrize(
    "other", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 2)]
)
def test_seeds_steps_ranks_and_buckets_do_not_go_together(other: tuple[int, ...]) -> None:
    first, second = numbers(0, 0, 0, 0), numbers(*other)
    for shift in (0, 1, 2, 64):
        correlation = np.corrcoef(first[shift:], second[: MANY - shift])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(MANY)
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 5 / np.sqrt(MANY)
    # No number comes at the same place, nor are they each other's in another order.
    assert (first == second).mean() < 1e-3
    assert len(np.intersect1d(first, second)) < 0.05 * MANY


def test_the_same_key_gives_the_same_numbers() -> None:
    np.testing.assert_array_equal(numbers(3, 1, 4, 1), numbers(3, 1, 4, 1))
