"""TrivialAugment's operations, each against a definition in NumPy that goes image by image."""

import math

import numpy as np
import pytest
import tensorflow as tf

from app.data.augment import trivial
from app.data.augment.trivial import OPERATIONS, STRENGTHS, trivial_augment

COUNT = STRENGTHS  # one image for each strength
LEVELS = range(0, STRENGTHS, 5)  # those that a loop over pixels has time for


def pictures(channels: int, height: int = 12, width: int = 9, seed: int = 0) -> np.ndarray:
    """Noise of a different range in each image, so that contrast and histograms differ."""
    random = np.random.default_rng(seed)
    low = random.integers(0, 120, (COUNT, 1, 1, channels))
    reach = random.integers(1, 136, (COUNT, 1, 1, channels))
    noise = low + random.random((COUNT, height, width, channels)) * reach
    noise[0] = 77  # of one value
    noise[1] = 0
    noise[2, :, :4] = 255  # a highest value that many pixels have
    return noise.astype(np.uint8)


def each(images: np.ndarray, function, *parameters) -> np.ndarray:
    """`function(image, parameter, ...)` for every image."""
    return np.stack([function(*some) for some in zip(images, *parameters, strict=True)])


def grey_of(image: np.ndarray) -> np.ndarray:
    if image.shape[2] == 1:
        return image[..., 0].astype(np.int64)
    red, green, blue = np.moveaxis(image.astype(np.int64), 2, 0)
    return (red * 19595 + green * 38470 + blue * 7471 + 2**15) // 2**16


def blended(other: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
    other = np.asarray(other, np.float32)
    mixed = other + np.float32(factor) * (image.astype(np.float32) - other)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def auto_contrast(image: np.ndarray) -> np.ndarray:
    out = image.copy()
    for channel in range(image.shape[2]):
        values = image[..., channel].astype(int)
        if values.max() > values.min():
            out[..., channel] = (values - values.min()) * 255 // (values.max() - values.min())
    return out


def equalize(image: np.ndarray) -> np.ndarray:
    out = image.copy()
    for channel in range(image.shape[2]):
        counts = [int((image[..., channel] == value).sum()) for value in range(256)]
        step = (sum(counts) - [count for count in counts if count][-1]) // 255
        if step:
            table, total = [], step // 2
            for count in counts:
                table.append(min(total // step, 255))
                total += count
            out[..., channel] = np.array(table)[image[..., channel]]
    return out


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    return np.where(image < threshold, image, 255 - image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    return image // 2 ** (8 - bits) * 2 ** (8 - bits)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return blended(np.zeros(()), image, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    return blended(np.floor(grey_of(image).mean() + 0.5), image, factor)


def color(image: np.ndarray, factor: float) -> np.ndarray:
    return image if image.shape[2] == 1 else blended(grey_of(image)[..., None], image, factor)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    smooth = image.astype(np.float64)
    for y in range(1, image.shape[0] - 1):
        for x in range(1, image.shape[1] - 1):
            around = image[y - 1 : y + 2, x - 1 : x + 2].astype(int).sum(axis=(0, 1))
            smooth[y, x] = np.floor((around + 4 * image[y, x].astype(int)) / 13 + 0.5)
    return blended(smooth, image, factor)


BY_TABLE = {
    "auto_contrast": (auto_contrast, None),
    "equalize": (equalize, None),
    "solarize": (solarize, [256 - int(level * 256 / 30) for level in range(STRENGTHS)]),
    "posterize": (posterize, [8 - int(level * 6 / 30) for level in range(STRENGTHS)]),
}
ENHANCEMENTS = {
    "brightness": brightness,
    "contrast": contrast,
    "color": color,
    "sharpness": sharpness,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BY_TABLE)
def test_an_operation_on_values_is_its_definition_to_the_byte(name: str, channels: int) -> None:
    images = pictures(channels, 40, 33)  # pixels enough for `equalize` to do something
    reference, parameters = BY_TABLE[name]
    given = () if parameters is None else (np.array(parameters, np.int32),)
    ours = getattr(trivial, name)(tf.constant(images), *given)
    expected = each(images, reference, *given)
    np.testing.assert_array_equal(ours, expected)
    assert (expected != images).any()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENHANCEMENTS)
def test_an_enhancement_is_its_definition_to_the_byte(name: str, channels: int) -> None:
    images = pictures(channels)
    factors = np.linspace(0.01, 2, COUNT, dtype=np.float32)
    ours = getattr(trivial, name)(tf.constant(images), factors)
    np.testing.assert_array_equal(ours, each(images, ENHANCEMENTS[name], factors))


def test_an_image_too_small_to_smooth_stays() -> None:
    images = pictures(3, 2, 9)
    factors = np.full(COUNT, 2, np.float32)
    np.testing.assert_array_equal(trivial.sharpness(tf.constant(images), factors), images)


def source_of(name: str, level: int, sign: int, x: float, y: float, size) -> tuple[float, float]:
    """Where Pillow takes the pixel with its centre at (x, y) from; `size` is (height, width)."""
    height, width = size
    if name == "rotate":  # counter-clockwise for a positive angle
        turn = sign * math.radians(int(level * 135 / 30))
        dx, dy = x - width / 2, y - height / 2
        return (
            math.cos(turn) * dx - math.sin(turn) * dy + width / 2,
            math.sin(turn) * dx + math.cos(turn) * dy + height / 2,
        )
    if name == "shear_x":
        return x + sign * 0.99 * level / 30 * y, y
    if name == "shear_y":
        return x, y + sign * 0.99 * level / 30 * x
    if name == "translate_x":
        return x + sign * int(level * min(32, width) / 30), y
    return x, y + sign * int(level * min(32, height) / 30)


@pytest.mark.parametrize("size", [(12, 9), (40, 36)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_a_geometric_operation_takes_each_pixel_from_where_its_definition_says(
    name: str, channels: int, size: tuple[int, int]
) -> None:
    images = pictures(channels, *size)
    operations = np.full(COUNT, OPERATIONS.index(name), np.int32)
    for sign in (1, -1):
        ours = trivial_augment(
            tf.constant(images), operations, tf.range(STRENGTHS), np.full(COUNT, sign < 0)
        ).numpy()
        compared = 0
        for level in LEVELS:
            for y, x in np.ndindex(*size):
                from_x, from_y = source_of(name, level, sign, x + 0.5, y + 0.5, size)
                if min(abs(s - round(s)) for s in (from_x, from_y)) < 1e-3:
                    continue  # between two pixels: either will do
                column, row = math.floor(from_x), math.floor(from_y)
                outside = not (0 <= column < size[1] and 0 <= row < size[0])
                expected = 0 if outside else images[level, row, column]
                np.testing.assert_array_equal(ours[level, y, x], expected)
                compared += 1
        assert compared > 0.8 * len(LEVELS) * size[0] * size[1]


def test_each_image_gets_its_own_operation_and_strength() -> None:
    images = pictures(3, 16, 16)
    random = np.random.default_rng(1)
    operations = random.integers(0, len(OPERATIONS), COUNT).astype(np.int32)
    strengths = random.integers(0, STRENGTHS, COUNT).astype(np.int32)
    negative = random.random(COUNT) < 0.5
    together = trivial_augment(tf.constant(images), operations, strengths, negative)
    for row in range(COUNT):
        one = slice(row, row + 1)
        alone = trivial_augment(images[one], operations[one], strengths[one], negative[one])
        np.testing.assert_array_equal(together[row], alone[0])


def test_strengths_mean_what_the_authors_code_says() -> None:
    image = pictures(3, 40, 40)[5]
    factors = [0.01 + 1.99 * level / 30 for level in (0, 15, 30)]
    expected = {
        "identity": [image] * 3,
        "auto_contrast": [auto_contrast(image)] * 3,
        "equalize": [equalize(image)] * 3,
        "solarize": [solarize(image, threshold) for threshold in (256, 128, 0)],
        "posterize": [posterize(image, bits) for bits in (8, 5, 2)],
        **{name: [f(image, factor) for factor in factors] for name, f in ENHANCEMENTS.items()},
    }
    for name, outcomes in expected.items():
        ours = trivial_augment(
            tf.constant(np.stack([image] * 3)),
            np.full(3, OPERATIONS.index(name), np.int32),
            np.array([0, 15, 30], np.int32),
            np.zeros(3, bool),
        )
        np.testing.assert_array_equal(ours, np.stack(outcomes), err_msg=name)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_empty_batch_stays_empty(channels: int) -> None:
    nothing = tf.zeros([0], tf.int32)
    images = tf.zeros([0, 8, 8, channels], tf.uint8)
    assert trivial_augment(images, nothing, nothing, tf.zeros([0], tf.bool)).shape == images.shape


def test_color_and_luma_need_one_or_three_channels() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels; got 4"):
        trivial_augment(tf.zeros([1, 8, 8, 4], tf.uint8), [0], [0], [False])


def test_pillow_gives_the_same() -> None:
    """An independent implementation, and the one that the authors' code uses."""
    image_module = pytest.importorskip("PIL.Image")
    ops, enhance = pytest.importorskip("PIL.ImageOps"), pytest.importorskip("PIL.ImageEnhance")
    images = pictures(3, 36, 36)  # square: no source of a quarter turn lies between two pixels
    levels = range(STRENGTHS)
    factors = np.array([0.01 + 1.99 * level / 30 for level in levels], np.float32)
    pillow = {
        "equalize": lambda image, level: ops.equalize(image),
        "solarize": lambda image, level: ops.solarize(image, 256 - int(level * 256 / 30)),
        "posterize": lambda image, level: ops.posterize(image, 8 - int(level * 6 / 30)),
        "color": lambda image, level: enhance.Color(image).enhance(factors[level]),
        "contrast": lambda image, level: enhance.Contrast(image).enhance(factors[level]),
        "brightness": lambda image, level: enhance.Brightness(image).enhance(factors[level]),
        "sharpness": lambda image, level: enhance.Sharpness(image).enhance(factors[level]),
        "auto_contrast": lambda image, level: ops.autocontrast(image),
        "rotate": lambda image, level: image.rotate(int(level * 135 / 30)),
        "shear_x": lambda image, level: image.transform(
            image.size, image_module.Transform.AFFINE, (1, 0.99 * level / 30, 0, 0, 1, 0)
        ),
        "translate_y": lambda image, level: image.transform(
            image.size, image_module.Transform.AFFINE, (1, 0, 0, 0, 1, int(level * 32 / 30))
        ),
    }
    for name, function in pillow.items():
        theirs = each(
            images,
            lambda image, level, f=function: np.asarray(f(image_module.fromarray(image), level)),
            np.arange(STRENGTHS),
        )
        ours = trivial_augment(
            tf.constant(images),
            np.full(COUNT, OPERATIONS.index(name), np.int32),
            tf.range(STRENGTHS),
            np.zeros(COUNT, bool),
        ).numpy()
        apart = np.abs(ours.astype(int) - theirs)
        if name == "auto_contrast":
            assert apart.max() <= 1
        elif name in ("rotate", "shear_x"):  # a source between two pixels
            assert (apart > 0).mean() < 0.002, name
        else:
            assert apart.max() == 0, name
