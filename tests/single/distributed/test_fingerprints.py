"""The checksums by which ranks compare their variables."""

import keras
import numpy as np
import pytest

from app.distributed.fingerprints import ROW, ROWS_AT_ONCE, WEIGHTS, fingerprints


def of(*values: np.ndarray) -> list[int]:
    return fingerprints([keras.Variable(v, dtype=str(v.dtype)) for v in values]).tolist()


def defined(words: np.ndarray) -> int:
    """The checksum of up to ROW words by its definition, in Python's integers."""
    total = sum(int(w) * int(x) for w, x in zip(WEIGHTS, words.ravel(), strict=False))
    total = (total + words.nbytes) % 2**64
    return total - 2**64 if total >= 2**63 else total


def test_the_checksum_of_a_few_words_is_that_of_its_definition() -> None:
    words = np.random.default_rng(1).integers(0, 2**32, 1000, dtype=np.uint32)
    assert of(words.view(np.float32).reshape(10, 100)) == [defined(words)]
    assert of(words.view(np.int64)) == [defined(words)]


# bfloat16 comes from ml_dtypes, with which Keras registers it.
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int32", "int64"])
@pytest.mark.parametrize("size", [1, 12, ROW + 1, ROW * (2 * ROWS_AT_ONCE + 1) + 7])
def test_one_bit_anywhere_changes_the_fingerprint(dtype: str, size: int) -> None:
    value = np.ones(size, keras.ops.zeros((), dtype).numpy().dtype)
    changed = []
    for place in {0, size // 2, size - 1}:
        for bit in (0, 8 * value.itemsize - 1):
            other = value.copy()
            other.view(f"u{value.itemsize}")[place] ^= np.array(1 << bit, f"u{value.itemsize}")
            changed.append(other)
    before, again, *after = of(value, value.copy(), *changed)
    assert before == again
    assert len({before, *after}) == 1 + len(after)


def test_a_flipped_bool_changes_the_fingerprint() -> None:
    assert len(set(of(*np.array([[0, 0], [0, 1], [1, 0], [1, 1]], bool)))) == 4


def test_the_order_of_values_counts() -> None:
    value = np.arange(3 * ROW, dtype=np.float32)
    swapped, moved = value.copy(), np.roll(value, ROW)
    swapped[[5, 6]] = swapped[[6, 5]]
    assert len(set(of(value, swapped, moved))) == 3


def test_two_changed_signs_do_not_cancel() -> None:
    value = np.ones(4, np.float32)
    assert len(set(of(value, *(value * [[-1, -1, 1, 1], [-1, 1, -1, 1]]).astype("f4")))) == 3


def test_minus_zero_is_not_zero_and_a_nan_is_its_bits() -> None:
    bits = np.array([0, 0x80000000, 0x7FC00000, 0x7FC00001, 0xFFC00000], np.uint32)
    assert len(set(of(*bits.view(np.float32)))) == len(bits)
    assert len(set(of(*[np.array(np.nan, np.float32)] * 2))) == 1


def test_zeros_of_other_sizes_have_other_fingerprints() -> None:
    assert len(set(of(*[np.zeros(n, np.float32) for n in (0, 1, 2, ROW, 2 * ROW)]))) == 5


def test_a_fingerprint_is_that_of_its_own_variable_and_follows_its_value() -> None:
    one, two = (keras.Variable(np.full((2, 2), n, "float32")) for n in (1, 2))
    first, second = fingerprints([one]), fingerprints([two])
    assert fingerprints([one, two]).tolist() == [*first, *second]
    one.assign(two)
    assert fingerprints([one]) == second
    assert fingerprints([]).tolist() == []
