"""The random numbers of an example: those of the definition, uniform and uncorrelated."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from app.data.augment import augment
from app.data.augment.random_keys import uniform


def splitmix64(seed: int, epoch: int, positions: np.ndarray, draws: int) -> np.ndarray:
    """The same in Python's whole numbers."""

    def output(state: int, number: int) -> int:
        z = (state + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    of_epoch = output(seed, epoch)
    states = [output(of_epoch, int(position)) for position in positions]
    words = [[output(state, draw) for draw in range(draws)] for state in states]
    return np.array([[(word >> 40) / 2**24 for word in row] for row in words])


def test_the_reference_is_splitmix64() -> None:
    """Its first output for seed 1234567, as published (rosettacode.org, Splitmix64)."""
    z = (1234567 + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    assert z ^ (z >> 31) == 6457827717110365317


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (7, 3), (2**63 + 5, 100_000)])
def test_random_numbers_are_those_of_the_definition(seed: int, epoch: int) -> None:
    positions = np.array([0, 1, 2, 5, 10**6, 2**40], np.int64)
    ours = uniform(seed, epoch, tf.constant(positions), 6)
    assert ours.dtype == tf.float32
    np.testing.assert_array_equal(ours, splitmix64(seed, epoch, positions, 6))


def test_random_numbers_are_uniform_in_each_draw_and_epoch() -> None:
    for epoch in range(3):
        numbers = uniform(1, epoch, tf.range(20_000, dtype=tf.int64), 4).numpy()
        assert numbers.min() >= 0
        assert numbers.max() < 1
        for draw in numbers.T:
            counts = np.histogram(draw, bins=100, range=(0, 1))[0]
            assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_neighbouring_positions_draws_epochs_and_seeds_are_uncorrelated() -> None:
    count = 20_000
    positions = tf.range(count, dtype=tf.int64)
    numbers = uniform(1, 0, positions, 4).numpy()
    columns = [
        *numbers.T,
        *(np.roll(numbers[:, 0], shift) for shift in (1, 2, 64)),
        *(uniform(1, epoch, positions, 1).numpy()[:, 0] for epoch in (1, 2)),
        *(uniform(seed, 0, positions, 1).numpy()[:, 0] for seed in (0, 2)),
    ]
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 4.5 / np.sqrt(count)


def test_the_largest_random_number_is_never_rounded_up_to_the_count() -> None:
    largest = tf.constant([1 - 2.0**-24], tf.float32)
    for count in range(1, 5000):
        assert int(np.float32(largest[0]) * np.float32(count)) == count - 1
    assert augment._whole(largest, 31).numpy().tolist() == [30]
