"""A checksum of the bits of each variable, computed on the device where the variable is.

Only 8 bytes per variable leave the device. One compiled function does it for all variables, in
integers alone, so equal bits give equal checksums on any device.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

ROW = 4096  # words
# Work in progress stays small: 1 MiB of words, which fits a CPU's cache, or a 256th of a variable.
ROWS_AT_ONCE, MOST_PIECES = 64, 256
# Odd, so that no change of one word goes unseen. PCG64's raw numbers are the same in every NumPy.
WEIGHTS = np.random.PCG64(12).random_raw(ROW).astype(np.int64) | 1
WORDS = {1: tf.uint8, 2: tf.uint16, 4: tf.uint32, 8: tf.uint32, 16: tf.uint32}  # by bytes a number


def fingerprints(variables: Sequence[keras.Variable]) -> np.ndarray:
    """A checksum of each variable's bits, int64 (variables,).

    The sum of w[i] * word[i] modulo 2**64 over the variable's words of at most 32 bits, with fixed
    random odd w[i] (multilinear hashing, Lemire and Kaser, arXiv 1202.4961): values that differ
    have the same one with a chance of about 2**-32. Sees order, -0.0, and the bits of a NaN.
    """
    if not variables:
        return np.zeros(0, np.int64)
    values = [tf.convert_to_tensor(variable.value) for variable in variables]
    sizes = [int(np.prod(value.shape)) * value.dtype.size for value in values]
    return _checksums(values).numpy() + np.array(sizes, np.int64)  # sizes: zeros at the end count


@tf.function(autograph=False)
def _checksums(values: list[tf.Tensor]) -> tf.Tensor:
    """Those of all values without their sizes, int64 (values,)."""
    weights = tf.constant(WEIGHTS)
    sums: list[tf.Tensor] = []
    for value in values:
        with tf.control_dependencies(sums[-1:]):  # one after another, or all would take memory
            sums.append(_checksum(value, weights))
    return tf.stack(sums)


def _checksum(value: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    if value.dtype == tf.bool:
        value = tf.cast(value, tf.uint8)
    words = tf.reshape(tf.bitcast(value, WORDS[value.dtype.size]), [-1])
    while words.shape[0] > ROW:
        words = _shorter(words, weights)
    return _weighed(words, weights[: words.shape[0]])


def _shorter(words: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Words (n,) with each full row of them replaced by its sum, two words: uint32 (about n/2048,).

    Slices of whole rows from a tensor are views of it, not copies.
    """
    rows = words.shape[0] // ROW
    at_once = max(ROWS_AT_ONCE, -(-rows // MOST_PIECES))
    sums: list[tf.Tensor] = []
    for first in range(0, rows, at_once):
        with tf.control_dependencies(sums[-1:]):
            piece = words[first * ROW : min(first + at_once, rows) * ROW]
            sums.append(_weighed(tf.reshape(piece, [-1, ROW]), weights))
    as_words = tf.reshape(tf.bitcast(tf.concat(sums, 0), tf.uint32), [-1])
    return tf.concat([as_words, tf.cast(words[rows * ROW :], tf.uint32)], 0)


def _weighed(words: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """The weighed sum over the last axis, int64: TensorFlow computes with int32 on the host."""
    return tf.reduce_sum(tf.cast(words, tf.int64) * weights, axis=-1)
