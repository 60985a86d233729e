"""RandAugment: several random operations on each image, all of the same strength.

Cubuk et al. 2019, arXiv:1909.13719. The operations are the 14 of TrivialAugment (trivial.py), in
the ranges of torchvision.transforms.RandAugment, which are those of AutoAugment.
"""

import numpy as np
import tensorflow as tf

from app.data.augment.random_keys import uniform
from app.data.augment.trivial import OPERATIONS, apply_each, check_channels

STRONGEST = 30
MOST_DEGREES, MOST_SHEAR, MOST_ENHANCED = 30, 0.3, 0.9
MOST_MOVED = 150 / 331  # of a side
FEWEST_BITS = 4
# Of an example's random numbers those from here on; the ones before are `augment.Draws`, and more
# may come there.
FIRST_DRAW = 64


def draw(
    seed: int, epoch: int | tf.Tensor, positions: tf.Tensor, count: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """(operations, negative) for `rand_augment`, (n, count) each: functions of (seed, epoch,
    position) alone. Arguments as for `random_keys.uniform`."""
    numbers = uniform(seed, epoch, positions, FIRST_DRAW + 2 * count)[:, FIRST_DRAW:]
    which, signs = tf.split(numbers, [count, count], axis=1)
    return tf.cast(which * len(OPERATIONS), tf.int32), signs < 0.5


def rand_augment(
    images: tf.Tensor, operations: tf.Tensor, negative: tf.Tensor, strength: int
) -> tf.Tensor:
    """Apply one operation after the other to each image.

    At the greatest strength: rotate by 30 degrees, shear by 0.3, translate by 150/331 of the side,
    solarize from 0, posterize to 4 bits, and the four enhancements at 1.9 or 0.1; each grows in
    proportion to the strength.

    Args:
        images: uint8 (n, height, width, channels).
        operations: places in OPERATIONS, int32 (n, operations).
        negative: rotate, shear or translate the other way, enhance less than before instead of
            more, bool (n, operations).
        strength: from 0 to STRONGEST, of all operations.

    Raises:
        ValueError: the images have neither 1 nor 3 channels.
    """
    check_channels(images)
    height, width, _ = images.shape[1:]
    matrices = tf.constant(_matrices(strength, height, width), tf.float32)
    share = strength / STRONGEST
    enhanced = MOST_ENHANCED * share
    for which, other_way in zip(
        tf.unstack(operations, axis=1), tf.unstack(negative, axis=1), strict=True
    ):
        images = apply_each(
            images,
            which,
            tf.gather_nd(matrices, tf.stack([which, tf.cast(other_way, tf.int32)], axis=1)),
            tf.where(other_way, 1 - enhanced, 1 + enhanced),
            tf.fill(tf.shape(which), 256 - 256 * strength // STRONGEST),
            tf.fill(tf.shape(which), 8 - round((8 - FEWEST_BITS) * share)),
        )
    return images


def _matrices(strength: int, height: int, width: int) -> np.ndarray:
    """For `trivial.affine`, by operation and by whether it goes the other way: (14, 2, 6). Rotation
    is about the image's centre, shear about its upper left corner."""
    share = strength / STRONGEST
    table = np.zeros((len(OPERATIONS), 2, 6))
    for other_way, sign in enumerate((1, -1)):
        turn = sign * np.deg2rad(MOST_DEGREES * share)
        rows = table[:, other_way]
        rows[:, [0, 4]] = 1
        rows[OPERATIONS.index("rotate")] = _turned(turn, height, width)
        # Half a pixel: a matrix counts from the centre of the first pixel, a corner is its edge.
        shear = sign * MOST_SHEAR * share
        rows[OPERATIONS.index("shear_x"), [1, 2]] = shear, shear / 2
        rows[OPERATIONS.index("shear_y"), [3, 5]] = shear, shear / 2
        rows[OPERATIONS.index("translate_x"), 2] = sign * int(MOST_MOVED * width * share)
        rows[OPERATIONS.index("translate_y"), 5] = sign * int(MOST_MOVED * height * share)
    return table


def _turned(turn: float, height: int, width: int) -> list[float]:
    """The matrix of a rotation by `turn`, in radians, about the centre of an image."""
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = (width - 1) / 2, (height - 1) / 2
    return [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y]
