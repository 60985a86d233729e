"""TrivialAugment: one random operation of random strength per image, a batch at a time.

Mueller and Hutter 2021, arXiv 2103.10158, in its "wide" space, with the strengths of the authors'
code (github.com/automl/trivialaugment, `aug_lib.py`). The operations are those of Pillow, which
that code uses, and give Pillow's bytes but where a docstring says otherwise.

Every operation takes uint8 images (n, height, width, channels), of 1 or 3 channels and static but
for n, which may be 0, and returns as much. Most compute in float32: TensorFlow's CPU kernels are
several times faster on it than on uint8, and it holds all the whole numbers met here exactly.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

OPERATIONS = (
    "identity",
    "auto_contrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
STRENGTHS = 31
_STRONGEST = STRENGTHS - 1
_MOST_DEGREES = 135
_COS = np.cos(np.deg2rad(np.arange(_MOST_DEGREES + 1))).astype(np.float32)
_SIN = np.sin(np.deg2rad(np.arange(_MOST_DEGREES + 1))).astype(np.float32)
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def trivial_augment(
    images: tf.Tensor, operations: tf.Tensor, strengths: tf.Tensor, negative: tf.Tensor
) -> tf.Tensor:
    """Apply one operation to each image.

    The ranges: rotate to 135 degrees, shear to 0.99, solarize from 256 to 0, posterize from 8 bits
    to 2, the four enhancements from 0.01 to 2, and translate to 32 pixels, as the authors and
    torchvision do at every size of image from CIFAR's 32 up. An image smaller than that moves by
    its own side at most: the same share as CIFAR's, where 32 pixels would nearly always leave
    nothing of it.

    Args:
        images: uint8 (n, height, width, channels).
        operations: places in OPERATIONS, int32 (n,).
        strengths: from 0 to STRENGTHS - 1, int32 (n,).
        negative: rotate, shear or translate the other way, bool (n,).

    Raises:
        ValueError: the images have neither 1 nor 3 channels.
    """
    check_channels(images)
    height, width, _ = images.shape[1:]
    factors = [0.01 + 1.99 * strength / _STRONGEST for strength in range(STRENGTHS)]
    return apply_each(
        images,
        operations,
        affine_matrices(operations, strengths, negative, height, width),
        tf.gather(tf.constant(factors, tf.float32), strengths),
        256 - strengths * 256 // _STRONGEST,
        8 - strengths * 6 // _STRONGEST,
    )


def check_channels(images: tf.Tensor) -> None:
    """Raise ValueError for images that color and luma have no meaning for."""
    if (channels := images.shape[3]) not in (1, 3):
        raise ValueError(f"auto_augment needs images of 1 or 3 channels; got {channels}")


def apply_each(
    images: tf.Tensor,
    operations: tf.Tensor,
    matrices: tf.Tensor,
    factors: tf.Tensor,
    thresholds: tf.Tensor,
    bits: tf.Tensor,
) -> tf.Tensor:
    """Apply one operation to each image, with what it needs.

    Args:
        images: uint8 (n, height, width, channels).
        operations: places in OPERATIONS, int32 (n,).
        matrices: float32 (n, 6), for rotate, shear and translate; see `affine`.
        factors: float32 (n,), for color, contrast, brightness and sharpness.
        thresholds, bits: int32 (n,), for solarize, and for posterize.
    """

    def given(function: Callable, parameters: tf.Tensor) -> Callable:
        return lambda part, rows: function(part, tf.gather(parameters, rows))

    groups = {
        "identity": lambda part, rows: part,
        "auto_contrast": lambda part, rows: auto_contrast(part),
        "equalize": lambda part, rows: equalize(part),
        "solarize": given(solarize, thresholds),
        "posterize": given(posterize, bits),
        "color": given(color, factors),
        "contrast": given(contrast, factors),
        "brightness": given(brightness, factors),
        "sharpness": given(sharpness, factors),
        "geometric": given(affine, matrices),
    }
    names = list(groups)
    group_of = [names.index("geometric" if o in GEOMETRIC else o) for o in OPERATIONS]
    return in_groups(images, tf.gather(group_of, operations), list(groups.values()))


def in_groups(images: tf.Tensor, groups: tf.Tensor, functions: Sequence[Callable]) -> tf.Tensor:
    """`functions[g](part, rows)` for the images of each group g, put back in the batch's order.

    `part` has the images of the group, and `rows`, int32 (part,), says where they stand in the
    batch. Images are copied whole on the way, which costs far less than a choice per pixel.
    """
    parts = tf.dynamic_partition(images, groups, len(functions))
    order = tf.range(tf.shape(images)[0])
    rows = tf.dynamic_partition(order, groups, len(functions))
    done = [f(part, row) for f, part, row in zip(functions, parts, rows, strict=True)]
    return tf.dynamic_stitch(rows, done)


def auto_contrast(images: tf.Tensor) -> tf.Tensor:
    """Stretch each channel of each image to 0..255: (x - low) * 255 / (high - low), rounded down.

    Exact, where Pillow's rounding sometimes gives 1 less. A channel of one value stays.
    """
    width = images.shape[2]
    values = tf.cast(images, tf.float32)
    # Repeated along the rows: a broadcast of three channels alone is several times slower.
    low = tf.tile(tf.reduce_min(values, [1, 2], keepdims=True), [1, 1, width, 1])
    high = tf.tile(tf.reduce_max(values, [1, 2], keepdims=True), [1, 1, width, 1])
    flat = tf.cast(high == low, tf.float32)
    low, reach = low * (1 - flat), (high - low) * (1 - flat) + 255 * flat
    return tf.cast((values - low) * 255 / reach, tf.uint8)


def equalize(images: tf.Tensor) -> tf.Tensor:
    """Make the histogram of each channel of each image as flat as a table of 256 values can."""
    width, channels = images.shape[2:]
    tables = tf.shape(images)[0] * channels
    first = tf.tile(tf.reshape(256 * tf.range(tables), [-1, 1, 1, channels]), [1, 1, width, 1])
    places = tf.cast(images, tf.int32) + first
    counts = tf.math.bincount(places, minlength=tables * 256, maxlength=tables * 256)
    counts = tf.reshape(counts, [-1, 256])
    below = tf.cumsum(counts, axis=1, exclusive=True)
    below_highest = tf.reduce_max(tf.where(counts > 0, below, 0), axis=1, keepdims=True)
    step = below_highest // 255
    table = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, table, tf.range(256))
    return tf.gather(tf.reshape(tf.cast(table, tf.uint8), [-1]), places)


def solarize(images: tf.Tensor, thresholds: tf.Tensor) -> tf.Tensor:
    """Invert the values from the threshold up; thresholds: int32 (n,), 256 inverts none."""
    values = tf.cast(images, tf.float32)
    inverted = tf.cast(values >= _per_image(thresholds), tf.float32)
    return tf.cast(tf.abs(values - 255 * inverted), tf.uint8)


def posterize(images: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Keep the highest bits of each value; bits: int32 (n,), from 1 to 8."""
    masks = 256 - tf.bitwise.left_shift(1, 8 - bits)
    return tf.bitwise.bitwise_and(images, tf.cast(masks, tf.uint8)[:, None, None, None])


def brightness(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Blend with black; factors: float32 (n,), 0 gives black and 1 the image."""
    return _blend(tf.constant(0.0), images, factors)


def contrast(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Blend with the mean grey of the image; factors: float32 (n,)."""
    grey = tf.cast(_grey(images)[..., 0], tf.int64)
    pixels = images.shape[1] * images.shape[2]
    means = (2 * tf.reduce_sum(grey, [1, 2]) + pixels) // (2 * pixels)
    return _blend(_per_image(means), images, factors)


def color(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Blend with the image in grey; factors: float32 (n,). One channel stays as it is."""
    return images if images.shape[3] == 1 else _blend(_grey(images), images, factors)


def sharpness(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Blend with the image smoothed by (1 1 1, 1 5 1, 1 1 1) / 13; factors: float32 (n,).

    The outermost pixels have no neighbours on one side and stay.
    """
    if min(images.shape[1:3]) < 3:
        return images
    values = tf.cast(images, tf.float32)
    sums = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    sums = sums[:, :, :-2] + sums[:, :, 1:-1] + sums[:, :, 2:] + 4 * values[:, 1:-1, 1:-1]
    smooth = tf.floor((sums + 6) / 13)  # rounded; never a tie, as 13 is odd
    inner = _blend(smooth, images[:, 1:-1, 1:-1], factors)
    middle = tf.concat([images[:, 1:-1, :1], inner, images[:, 1:-1, -1:]], axis=2)
    return tf.concat([images[:, :1], middle, images[:, -1:]], axis=1)


def affine(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Take the pixel (x, y) from the nearest to (ax + by + c, dx + ey + f); outside is black.

    matrices: (a, b, c, d, e, f), float32 (n, 6). A source between two pixels may be either.
    """
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.pad(matrices, [[0, 0], [0, 2]]),
        output_shape=images.shape[1:3],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )


def affine_matrices(
    operations: tf.Tensor, strengths: tf.Tensor, negative: tf.Tensor, height: int, width: int
) -> tf.Tensor:
    """For `affine`: the matrices of the geometric operations, and the identity for the others.

    Rotation is about the image's centre, shear about its upper left corner. Arguments as for
    `trivial_augment`; returns float32 (n, 6).
    """
    sign = tf.where(negative, -1.0, 1.0)

    def amount(name: str, strength: tf.Tensor) -> tf.Tensor:
        chosen = tf.cast(operations == OPERATIONS.index(name), tf.float32)
        return chosen * sign * tf.cast(strength, tf.float32)

    # From a table: TensorFlow's own cos and sin differ in the last bit between the places of a
    # tensor, so an example would be another one in another batch.
    rotates = operations == OPERATIONS.index("rotate")
    degrees = tf.where(rotates, strengths * _MOST_DEGREES // _STRONGEST, 0)
    cos, sin = tf.gather(_COS, degrees), sign * tf.gather(_SIN, degrees)
    b = 0.99 / _STRONGEST * amount("shear_x", strengths) - sin
    d = 0.99 / _STRONGEST * amount("shear_y", strengths) + sin
    move_x = amount("translate_x", strengths * min(32, width) // _STRONGEST)
    move_y = amount("translate_y", strengths * min(32, height) // _STRONGEST)
    # The point that stays, counted from the centre of the first pixel.
    rotated = tf.cast(rotates, tf.float32)
    x, y = rotated * width / 2 - 0.5, rotated * height / 2 - 0.5
    c = x - cos * x - b * y + move_x
    f = y - d * x - cos * y + move_y
    return tf.stack([cos, b, c, d, cos, f], axis=1)


def _per_image(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(values, tf.float32)[:, None, None, None]


def _blend(other: tf.Tensor, images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """other + factor * (images - other), cut to 0..255 and rounded down; `other` is float32."""
    mixed = other + _per_image(factors) * (tf.cast(images, tf.float32) - other)
    return tf.cast(tf.clip_by_value(mixed, 0, 255), tf.uint8)


def _grey(images: tf.Tensor) -> tf.Tensor:
    """ITU-R 601-2 luma as Pillow computes it, rounded, in every channel; float32, one or three."""
    values = tf.cast(images, tf.float32)
    if images.shape[3] == 1:
        return values
    # Below 2**24, so exact. Three equal columns, as repeating a channel later costs more.
    luma = tf.tile(tf.constant([[19595.0], [38470.0], [7471.0]]), [1, 3])
    return tf.floor((tf.tensordot(values, luma, 1) + 2.0**15) * 2.0**-16)
