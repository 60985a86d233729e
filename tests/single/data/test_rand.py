"""RandAugment against torchvision's definition in NumPy and Pillow, and by what it promises."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from app.data.augment import rand
from app.data.augment.augment import Draws
from app.data.augment.rand import STRONGEST, rand_augment
from app.data.augment.trivial import OPERATIONS
from tests.single.data.test_trivial import pictures

STRENGTHS = (0, 9, 17, STRONGEST)
ENHANCERS = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}


def by_pillow(name: str, image: np.ndarray, strength: int, sign: int) -> np.ndarray:
    """One operation, as torchvision.transforms.RandAugment has it with 31 magnitudes."""
    height, width = image.shape[:2]
    share, picture = strength / 30, Image.fromarray(image)
    if name in ENHANCERS:
        return np.asarray(ENHANCERS[name](picture).enhance(1 + sign * 0.9 * share))
    tables = {
        "identity": lambda: picture,
        "auto_contrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "solarize": lambda: ImageOps.solarize(picture, 256 - int(256 * share)),
        "posterize": lambda: ImageOps.posterize(picture, 8 - round(strength / 7.5)),
        "rotate": lambda: picture.rotate(sign * 30 * share),
    }
    if name in tables:
        return np.asarray(tables[name]())
    shear, moves = sign * 0.3 * share, sign * 150 / 331 * share
    affine = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, int(moves * width), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, int(moves * height)),
    }
    return np.asarray(picture.transform(picture.size, Image.Transform.AFFINE, affine[name]))


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_that_of_torchvision(name: str, strength: int) -> None:
    images = pictures(3, 24, 24)[:12]
    which = np.full((len(images), 1), OPERATIONS.index(name), np.int32)
    for sign in (1, -1):
        ours = rand_augment(tf.constant(images), which, np.full(which.shape, sign < 0), strength)
        theirs = np.stack([by_pillow(name, image, strength, sign) for image in images])
        apart = np.abs(ours.numpy().astype(int) - theirs)
        if name in ("rotate", "shear_x", "shear_y"):  # a source between two pixels may be either
            assert (apart > 0).mean() < 0.01
        else:
            assert apart.max() <= 1  # Pillow's own rounding
            assert (apart > 0).mean() < 0.02


def test_at_the_least_strength_all_is_nearly_as_it_was() -> None:
    images = pictures(3, 12, 9)
    for name in set(OPERATIONS) - {"auto_contrast", "equalize"}:
        which = np.full((len(images), 2), OPERATIONS.index(name), np.int32)
        ours = rand_augment(tf.constant(images), which, which > 0, 0)
        np.testing.assert_array_equal(ours, images, err_msg=name)


def test_operations_come_one_after_the_other() -> None:
    images = pictures(3, 12, 9)
    random = np.random.default_rng(2)
    which = random.integers(0, len(OPERATIONS), (len(images), 3)).astype(np.int32)
    signs = random.random(which.shape) < 0.5
    together = rand_augment(tf.constant(images), which, signs, 20)
    one_by_one = tf.constant(images)
    for column in range(3):
        part = slice(column, column + 1)
        one_by_one = rand_augment(one_by_one, which[:, part], signs[:, part], 20)
    np.testing.assert_array_equal(together, one_by_one)
    assert (together.numpy() != images).any()


def test_every_operation_and_sign_comes_as_often() -> None:
    positions = tf.range(28_000, dtype=tf.int64)
    operations, negative = (part.numpy() for part in rand.draw(3, 1, positions, 2))
    counts = np.stack([np.bincount(column, minlength=14) for column in operations.T])
    assert counts.min() > 1800 and counts.max() < 2200
    assert negative.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.02)
    same = (operations[:, 0] == operations[:, 1]).mean()
    assert same == pytest.approx(1 / 14, abs=0.01)  # drawn one by one


def test_its_draws_are_none_of_those_of_other_changes() -> None:
    assert len(Draws._fields) <= rand.FIRST_DRAW


@pytest.mark.parametrize("channels", [1, 3])
def test_an_empty_batch_stays_empty(channels: int) -> None:
    images, nothing = tf.zeros([0, 8, 8, channels], tf.uint8), tf.zeros([0, 2], tf.int32)
    assert rand_augment(images, nothing, nothing > 0, 9).shape == images.shape


def test_color_and_luma_need_one_or_three_channels() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels; got 4"):
        rand_augment(tf.zeros([1, 8, 8, 4], tf.uint8), [[0]], [[False]], 9)
