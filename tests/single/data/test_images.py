"""Pixels of the wanted shape from the bytes of image files."""

import numpy as np
import pytest
import tensorflow as tf

from app.data import images
from app.data.images import ImageSpec, MixedSizes, decode_image, decode_images
from tests.single.data.pictures import KEEP, NOT_AN_IMAGE, encode, picture, truncated


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with antialiasing by its definition: a triangle as wide as a pixel of the result,
    or of the original where that is wider; float (height, width, c)."""

    def weights(old: int, new: int) -> np.ndarray:
        scale = old / new
        centres = (np.arange(new)[:, None] + 0.5) * scale
        distance = np.abs(np.arange(old) + 0.5 - centres) / max(scale, 1)
        triangle = np.maximum(0, 1 - distance)
        return triangle / triangle.sum(axis=1, keepdims=True)

    old_height, old_width, _ = pixels.shape
    rows = np.einsum("ij,jkc->ikc", weights(old_height, height), pixels)
    return np.einsum("ij,kjc->kic", weights(old_width, width), rows)


def fitted(pixels: np.ndarray, size: int, fit: str) -> np.ndarray:
    height, width, channels = pixels.shape
    if fit == "stretch":
        return resized(pixels, size, size)
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return resized(pixels[top : top + side, left : left + side], size, size)
    longest = max(height, width)
    inner_height, inner_width = (
        max(1, int(side * size / longest + 0.5)) for side in (height, width)
    )
    result = np.zeros((size, size, channels))
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    inner = resized(pixels, inner_height, inner_width)
    result[top : top + inner_height, left : left + inner_width] = inner
    return result


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize(
    "shape", [(5, 9), (9, 5), (20, 31), (6, 6), (3, 40), (1, 1), (8, 7), (3, 5)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_fit_equals_its_definition(fit: str, shape: tuple[int, int], channels: int) -> None:
    pixels = picture(*shape, channels)
    result = decode_image(encode(pixels), ImageSpec(8, fit, channels)).numpy()
    assert result.shape == (8, 8, channels) and result.dtype == np.uint8
    # A half may be rounded either way.
    assert np.abs(result - fitted(pixels, 8, fit)).max() <= 0.51


def test_crop_keeps_the_centre() -> None:
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, 1:3] = 200
    result = decode_image(encode(pixels), ImageSpec(2, "crop", 3))
    assert (result.numpy() == 200).all()


def test_pad_puts_black_above_and_below_a_wide_image() -> None:
    pixels = np.full((2, 4, 3), 200, np.uint8)
    result = decode_image(encode(pixels), ImageSpec(4, "pad", 3)).numpy()
    assert (result[1:3] == 200).all() and (result[[0, 3]] == 0).all()


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, None])
def test_an_image_of_the_right_size_is_not_touched(fit, channels: int, size: int | None) -> None:
    pixels = picture(channels=channels)
    result = decode_image(encode(pixels), ImageSpec(size, fit, channels))
    assert np.array_equal(result, pixels)


def test_a_very_long_image_needs_little_memory() -> None:
    result = decode_image(encode(picture(1, 60000)), ImageSpec(224, "crop", 3))
    assert result.shape == (224, 224, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [
        ("PNG", None, {}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("GIF", "P", {}),
        ("BMP", None, {}),
        ("WEBP", None, {"lossless": True}),
    ],
)
def test_every_lossless_format_gives_the_same_pixels(channels: int, format, mode, options) -> None:
    pixels = np.repeat(picture(8, 8)[:, :, :1] // 51 * 51, 3, axis=2)  # greys of the web palette
    result = decode_image(encode(pixels, format, mode, **options), ImageSpec(None, "pad", channels))
    assert np.array_equal(result, pixels[:, :, :channels])


def test_colours_become_grey_by_their_brightness() -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    for format, options in (("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})):
        result = decode_image(encode(pixels, format, **options), ImageSpec(None, "crop", 1))
        assert result.numpy().ravel().tolist() == [76, 150, 29, 255]


def test_decode_image_works_in_a_tf_data_pipeline() -> None:
    spec = ImageSpec(4, "pad", 3)
    files = [encode(picture(3, 5, seed=seed)) for seed in range(3)]
    dataset = tf.data.Dataset.from_tensor_slices(files).map(lambda one: decode_image(one, spec))
    assert dataset.element_spec == tf.TensorSpec((4, 4, 3), tf.uint8)
    result = np.stack(list(dataset.batch(2).unbatch().as_numpy_iterator()))
    assert np.array_equal(result, decode_images(files, spec)[0])


BAD_PIXELS = {
    "zero bytes": b"",
    NOT_AN_IMAGE: b"<html>404 Not Found</html>",
    "truncated or damaged JPEG": truncated("JPEG"),
    "truncated or damaged PNG": truncated("PNG"),
    "truncated or damaged GIF": truncated("GIF"),
    "truncated or damaged BMP": truncated("BMP"),
    "truncated or damaged WebP": truncated("WEBP"),
    "TIFF, which TensorFlow does not read: convert it to JPEG or PNG": encode(picture(), "TIFF"),
}


@pytest.mark.parametrize("per_call", [1, 7, 512])
def test_the_bad_are_named_and_the_good_are_all_there_in_order(monkeypatch, per_call: int) -> None:
    monkeypatch.setattr(images, "IMAGES_PER_CALL", per_call)
    pixels = [picture(seed=seed) for seed in range(40)]
    files = [encode(one) for one in pixels]
    expected = []
    for position, (reason, content) in enumerate(BAD_PIXELS.items()):
        files.insert(5 * position, content)
        expected.append((5 * position, reason))
    good, bad = decode_images(files, KEEP)
    assert bad == expected
    assert np.array_equal(good, pixels)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_off_anywhere_is_not_filled_with_grey(share: float, progressive: bool) -> None:
    whole = encode(picture(64, 64), "JPEG", progressive=progressive)
    good, bad = decode_images([whole[: int(share * len(whole))]], KEEP)
    assert len(good) == 0 and bad == [(0, "truncated or damaged JPEG")]


@pytest.mark.parametrize("files", [[], [b""]])
def test_no_good_image_gives_an_empty_array(files: list[bytes]) -> None:
    assert decode_images(files, ImageSpec(8, "pad", 1))[0].shape == (0, 8, 8, 1)
    assert decode_images(files, KEEP)[0].shape == (0, 0, 0, 3)


@pytest.mark.parametrize("per_call", [2, 512])
def test_mixed_sizes_are_named_where_sizes_are_kept(monkeypatch, per_call: int) -> None:
    monkeypatch.setattr(images, "IMAGES_PER_CALL", per_call)
    files = [b"", *[encode(picture(4, 6))] * 3, encode(picture(5, 7)), encode(picture(4, 6))]
    with pytest.raises(MixedSizes, match="image 1 is 6x4 and image 4 is 7x5") as caught:
        decode_images(files, KEEP)
    assert caught.value.positions == (1, 4)
    assert caught.value.sizes == ((4, 6), (5, 7))


@pytest.mark.parametrize("values", [(0, "crop", 3), (8, "fill", 3), (8, "crop", 4)])
def test_a_spec_that_makes_no_sense_is_refused(values) -> None:
    with pytest.raises(ValueError, match="must be"):
        ImageSpec(*values)
