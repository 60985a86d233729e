"""Image files: headers, bytes, and pixels of the wanted shape."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from app.data import images
from app.data.images import ImageSpec, MixedSizes, decode_image, decode_images
from app.data.sources.image_files import Header, ImageFiles
from app.errors import UserError

KEEP = ImageSpec(None, "crop", 3)
NOT_AN_IMAGE = "not an image that TensorFlow reads (JPEG, PNG, GIF, BMP, WebP)"
PALETTE_BMP = "a BMP with a palette or compressed, which TensorFlow misreads: convert it to PNG"


def picture(height: int = 16, width: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random pixels, uint8 (height, width, channels)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def encode(pixels: np.ndarray, format: str = "PNG", mode: str | None = None, **options) -> bytes:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, format, **options)
    return buffer.getvalue()


def animation(format: str) -> bytes:
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def png(width: int, height: int, bit_depth: int, data: bytes) -> bytes:
    """A PNG in colour of any size and depth, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, bit_depth, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def compressed_bmp() -> bytes:
    """Four grey pixels, run-length encoded, which Pillow does not write."""
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))
    pixels = bytes((2, 10, 0, 0, 2, 20, 0, 1))
    start = 14 + 40 + len(palette)
    sizes = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    header = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    return header + sizes + palette + pixels


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


def truncated(format: str, share: float = 0.5) -> bytes:
    content = encode(picture(64, 64), format)
    return content[: int(len(content) * share)]


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


HEADERS = {
    "jpeg": (encode(picture(4, 6), "JPEG"), Header(6, 4, False)),
    "grey jpeg": (encode(picture(4, 6, 1), "JPEG"), Header(6, 4, True)),
    "png": (encode(picture(4, 6)), Header(6, 4, False)),
    "palette": (encode(picture(4, 6), mode="P"), Header(6, 4, False)),
    "black and white": (encode(picture(4, 6), mode="1"), Header(6, 4, True)),
    "alpha": (encode(picture(4, 6), mode="RGBA"), Header(6, 4, False, alpha=True)),
    "grey and alpha": (encode(picture(4, 6), mode="LA"), Header(6, 4, True, alpha=True)),
    "gif": (encode(picture(4, 6), "GIF"), Header(6, 4, False)),
    "bmp": (encode(picture(4, 6), "BMP"), Header(6, 4, False)),
    "grey bmp": (encode(picture(4, 6, 1), "BMP"), Header(6, 4, True)),
    "webp": (encode(picture(4, 6), "WEBP"), Header(6, 4, False)),
    "camera with preview": (animation("MPO"), Header(16, 16, False)),
    "zero bytes": (b"", "zero bytes"),
    "text": (b"hello", NOT_AN_IMAGE),
    "header cut off": (encode(picture(), "JPEG")[:100], "truncated or damaged JPEG"),
    "first bytes only": (encode(picture())[:20], "truncated or damaged PNG"),
    "tiff": (
        encode(picture(), "TIFF"),
        "TIFF, which TensorFlow does not read: convert it to JPEG or PNG",
    ),
    "ico": (
        encode(picture(), "ICO"),
        "ICO, which TensorFlow does not read: convert it to JPEG or PNG",
    ),
    "cmyk": (
        encode(picture(), "JPEG", mode="CMYK"),
        "four colour channels (CMYK): convert it to RGB",
    ),
    "16 bits, grey": (
        encode(np.zeros((4, 6), np.uint16)),
        "16 bits a channel: convert it to 8",
    ),
    "16 bits, colour": (png(4, 2, 16, bytes(50)), "16 bits a channel: convert it to 8"),
    "palette bmp": (encode(picture(), "BMP", mode="P"), PALETTE_BMP),
    "black and white bmp": (encode(picture(), "BMP", mode="1"), PALETTE_BMP),
    "compressed bmp": (compressed_bmp(), PALETTE_BMP),
    "animated gif": (animation("GIF"), "animated, 3 frames: take one frame out"),
    "animated png": (animation("PNG"), "animated, 3 frames: take one frame out"),
    "animated webp": (animation("WEBP"), "animated, 3 frames: take one frame out"),
    "large": (png(10_000, 10_000, 8, b""), "more than 89,478,485 pixels: make it smaller"),
    "bomb": (png(100_000, 100_000, 8, b""), "more than 89,478,485 pixels: make it smaller"),
}


@pytest.mark.parametrize(("content", "expected"), HEADERS.values(), ids=HEADERS)
def test_a_header_is_read_or_refused(tmp_path: Path, content: bytes, expected) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert images.read_header(content) == expected
        assert images.read_header(path) == expected
    assert not caught


@pytest.mark.parametrize(("content", "expected"), HEADERS.values(), ids=HEADERS)
def test_what_a_header_promises_is_what_is_decoded(content: bytes, expected) -> None:
    if isinstance(expected, Header):
        shape = decode_image(content, KEEP).shape
        assert shape == (expected.height, expected.width, 3)
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
        # JPEG and WebP are not decoded to the last bit alike.
        assert np.abs(decode_image(content, KEEP).numpy().astype(int) - pixels).max() <= 5


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    names = [f"{number}.png" for number in range(30)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encode(picture(number + 1, 4)))
    return ImageFiles(tmp_path, np.array(names, object), np.arange(30))


def test_files_are_read_in_the_order_asked_for(files: ImageFiles) -> None:
    order = np.array([3, 29, 0, 3])
    assert files.read(order) == [encode(picture(number + 1, 4)) for number in order]
    assert files.headers(order) == [Header(4, number + 1, False) for number in order]
    assert files.read(np.array([], int)) == []


def test_take_keeps_paths_labels_and_origins_together(files: ImageFiles) -> None:
    named = ImageFiles(files.root, files.paths, files.labels, [f"line {n}" for n in range(30)])
    taken = named.take(np.array([7, 2]))
    assert len(taken) == 2
    assert taken.paths.tolist() == ["7.png", "2.png"]
    assert taken.labels.tolist() == [7, 2]
    assert taken.where(1) == f"line 2: {files.root / '2.png'}"
    assert files.take(np.array([7, 2])).where(0) == str(files.root / "7.png")


def test_a_file_that_vanished_is_named(files: ImageFiles) -> None:
    (files.root / "4.png").unlink()
    for read in (files.read, files.headers):
        with pytest.raises(UserError, match=r"4\.png cannot be read: No such file .* leave"):
            read(np.arange(30))


def test_bad_headers_come_back_in_their_place_without_a_warning(files: ImageFiles) -> None:
    (files.root / "1.png").write_bytes(b"")
    (files.root / "2.png").write_bytes(HEADERS["large"][0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        headers = files.headers(np.arange(4))
    assert headers[1:3] == ["zero bytes", "more than 89,478,485 pixels: make it smaller"]
    assert headers[0] == Header(4, 1, False) and headers[3] == Header(4, 4, False)
    assert not caught


def test_files_whose_parts_differ_in_length_or_dtype_are_refused(files: ImageFiles) -> None:
    with pytest.raises(ValueError, match="30 paths, 2 labels"):
        ImageFiles(files.root, files.paths, np.arange(2))
    with pytest.raises(ValueError, match="int64"):
        ImageFiles(files.root, files.paths, np.arange(30.0))
