"""A shuffle that needs no array: where a keyed permutation takes a place is computed, not kept.

A Feistel network over two digits, and cycle walking where their product is more than the size:
J. Black and P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (the methods are its
"generalized-Feistel" and "cycle-walking" constructions). Only integers modulo 2^64, so the same on
every machine and under every NumPy.
"""

import math

import numpy as np

# Rounds; each moves one digit. With random functions the distance (total variation) between them
# and a uniform draw of all permutations, computed exactly: 12 rounds leave 3e-4 for 4 places and
# 2e-2 for 5 and 6, 24 leave 1e-6 for 4. Of digits that are not that small 12 are twice what
# suffices.
FEW_PLACES, ROUNDS, ROUNDS_OF_FEW = 1000, 12, 24
# The increment and the multipliers of SplitMix64: G. Steele et al., OOPSLA 2014.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
HALF = np.uint64(32)
ROUND_KEYS = np.arange(ROUNDS_OF_FEW, dtype=np.uint64) * GOLDEN
MOST = 2**60


class Bijections:
    """Keyed permutations of range(sizes[k]), one for each k.

    Args:
        sizes: int (m,), at least 1 where it is used.
        keys: uint64 (m,), as random as the permutations are to be.

    Raises:
        ValueError: a size is 2^60 or more.
    """

    def __init__(self, sizes: np.ndarray, keys: np.ndarray):
        if max(sizes, default=0) >= MOST:
            raise ValueError(f"sizes must be less than 2^60; got {max(sizes)}")
        digits = np.array([_digits(int(size)) for size in sizes], np.uint64).reshape(-1, 2)
        self._sizes = np.asarray(sizes, np.uint64)
        self._high, self._low = digits[:, 0], digits[:, 1]
        self._keys = np.asarray(keys, np.uint64)
        self._rounds = ROUNDS_OF_FEW if min(sizes, default=0) < FEW_PLACES else ROUNDS

    def __call__(self, places: np.ndarray, which: np.ndarray | None = None) -> np.ndarray:
        """Where each place goes, int64 (n,); both in range(sizes[which]).

        `which`: the permutation of each place, int (n,); None: the only one.
        """
        number = np.zeros(1, np.int64) if which is None else which
        size, high, low = self._sizes[number], self._high[number], self._low[number]
        key, moved = self._keys[number], places.astype(np.uint64)
        left = np.arange(len(moved))  # not yet inside
        while len(left):
            moved[left] = _encrypt(moved[left], high, low, key, self._rounds)
            outside = moved[left] >= size
            left = left[outside]
            if which is not None:
                size, high, low, key = (one[outside] for one in (size, high, low, key))
        return moved.astype(np.int64)


def _digits(size: int) -> tuple[int, int]:
    """Two factors, about equal, of a product that is `size` or little more."""
    high = math.isqrt(max(size, 1) - 1) + 1
    low = -(-size // high)
    if high % 2 and low % 2:  # else every permutation of 9, 25, ... would be an even one
        high += 1
        low = -(-size // high)
    return high, max(low, 1)


def _encrypt(
    value: np.ndarray, high: np.ndarray, low: np.ndarray, key: np.ndarray, rounds: int
) -> np.ndarray:
    """A permutation of range(high * low): each digit is moved by a random function of the other,
    in turns."""
    left, right = np.divmod(value, low)
    for number in range(rounds):
        round_key = key + ROUND_KEYS[number : number + 1]  # an array: it may wrap in silence
        if number % 2:
            right = _moved(right, left, low, round_key)
        else:
            left = _moved(left, right, high, round_key)
    left *= low
    left += right
    return left


def _moved(digit: np.ndarray, by: np.ndarray, base: np.ndarray, key: np.ndarray) -> np.ndarray:
    """(digit + a random number that depends on `by` and `key`) modulo `base`, all uint64."""
    bits = by * FIRST
    bits += key
    bits ^= bits >> HALF
    bits *= SECOND
    bits >>= HALF
    bits *= base  # a fraction of 32 bits of the base
    bits >>= HALF
    bits += digit
    return np.minimum(bits, bits - base, out=bits)  # below 0 it wraps, and is the larger one
