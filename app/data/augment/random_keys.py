"""Random numbers that depend on what they are for, not on who draws them or when.

An example's numbers in an epoch are the same on every rank, at every world size and after a
resume. Knows TensorFlow and nothing of images.
"""

from typing import Any

import tensorflow as tf

_WORD = 2**64
_GAMMA = 0x9E3779B97F4A7C15


def uniform(seed: int, epoch: int | tf.Tensor, positions: tf.Tensor, draws: int) -> tf.Tensor:
    """Uniform numbers, each a function of (seed, epoch, position, draw) alone.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, doi:10.1145/2660193.2660195): output n of the
    generator with state s is `mix(s + (n + 1) * gamma)`. Output `epoch` of the generator `seed` is
    the state of the epoch's generator, whose outputs are the states of the positions' generators,
    whose outputs are the draws.

    Args:
        seed: any integer, taken modulo 2**64.
        epoch: any integer, taken modulo 2**64, or an integer tensor ().
        positions: places in the epoch's global order, int64 (n,).
        draws: numbers for each position; the first ones do not change when more are asked for.

    Returns:
        float32 (n, draws), multiples of 2**-24 in [0, 1).
    """
    state = _output(_word(seed), _word(epoch))
    state = _output(state, tf.cast(positions, tf.uint64)[:, None])
    state = _output(state, tf.cast(tf.range(draws), tf.uint64))
    # 24 bits are what a float32 holds exactly, so no number is rounded up to 1.
    return tf.cast(tf.bitwise.right_shift(state, _word(40)), tf.float32) * 2.0**-24


def _word(value: int | tf.Tensor) -> Any:
    if tf.is_tensor(value):
        return tf.cast(value, tf.uint64)
    return tf.constant(value % _WORD, tf.uint64)


def _output(state: Any, number: Any) -> Any:
    """Output `number` (from 0) of the generator with this state, uint64."""
    state = state + (number + _word(1)) * _word(_GAMMA)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _word(shift)))
        state = state * _word(factor)
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _word(31)))
