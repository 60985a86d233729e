"""Image files: what their headers tell, and reading them in any order."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.data import images
from app.data.images import decode_image
from app.data.sources.image_files import Header, ImageFiles
from app.errors import UserError
from tests.single.data.pictures import (
    KEEP,
    NOT_AN_IMAGE,
    PALETTE_BMP,
    animation,
    compressed_bmp,
    encode,
    picture,
    png,
)

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
