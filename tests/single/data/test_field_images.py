"""Pictures as people have them: what a file shows to people is what the model gets."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from app.__main__ import main
from app.config import Data
from app.config.values import rgb_of
from app.data import decode
from app.data.images import ImageSpec, decode_images
from app.data.orientation import orientation_of
from app.data.sources.image_files import Header, read_header
from tests.single.data.field_pictures import (
    DATA,
    NAMED,
    OWN_RULES,
    RED,
    WHITE,
    difference,
    exif,
    glyph,
    jpeg,
    on,
    only,
    tiff,
)
from tests.single.data.pictures import KEEP, encode


@pytest.mark.parametrize(("file", "shown"), NAMED.values(), ids=NAMED)
def test_a_file_is_decoded_to_what_it_shows(file: bytes, shown: np.ndarray) -> None:
    lossy = file.startswith(b"\xff\xd8") or b"VP8 " in file
    assert difference(only(file), shown) <= (6 if lossy else 0)


@pytest.mark.parametrize("name", [name for name in NAMED if name not in OWN_RULES])
def test_pillow_shows_the_same(name: str) -> None:
    file, shown = NAMED[name]
    with Image.open(io.BytesIO(file)) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGBA")
    seen = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    lossy = file.startswith(b"\xff\xd8") or b"VP8 " in file
    assert difference(np.array(seen), shown) <= (6 if lossy else 1)


@pytest.mark.parametrize(("file", "shown"), NAMED.values(), ids=NAMED)
def test_a_header_tells_the_size_of_the_upright_picture(file: bytes, shown: np.ndarray) -> None:
    header = read_header(file)
    assert isinstance(header, Header)
    assert (header.height, header.width) == shown.shape[:2]


def test_a_header_tells_what_is_turned_and_what_is_transparent() -> None:
    def told(name: str) -> tuple[bool, bool]:
        header = read_header(NAMED[name][0])
        assert isinstance(header, Header)
        return header.turned, header.alpha

    assert told("JPEG, orientation 1") == told("PNG, palette without alpha") == (False, False)
    assert told("JPEG, orientation 2") == told("WebP, orientation 8") == (True, False)
    assert told("PNG, a transparent colour") == told("GIF, transparent") == (False, True)
    assert told("WebP, turned and transparent") == (True, True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "name", ["PNG, black on transparent", "WebP, transparent", "GIF, transparent", "BMP, alpha"]
)
def test_the_background_can_be_another_colour(name: str, channels: int) -> None:
    red = only(NAMED[name][0], ImageSpec(None, "crop", channels, RED))
    white = NAMED[name][1]
    seen = np.zeros_like(white) if white.shape[0] != 4 else white.copy()
    if white.shape[0] == 4:
        seen[(white == 255).all(axis=2)] = RED
    else:
        seen = on(RED, glyph())
    if channels == 1:
        seen = np.round(seen @ (0.299, 0.587, 0.114))[..., None]
    assert difference(red, seen) <= 1


def test_the_background_is_a_name_or_numbers() -> None:
    assert Data().background == "white"
    assert (rgb_of("Black"), rgb_of("#10ff20"), rgb_of("#fff")) == (
        (0, 0, 0),
        (16, 255, 32),
        WHITE,
    )


@pytest.mark.parametrize("color", ["whit", "", "#12345", "#11223344", "12"])
def test_a_background_that_is_no_colour_is_refused(color: str, tmp_path: Path, capsys) -> None:
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--background", color]) == 2
    assert "--background: expected the name of a colour" in capsys.readouterr().err


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_a_picture_is_turned_before_it_is_fitted(fit: str) -> None:
    turned, upright = jpeg(exif(tiff(6))), encode(np.rot90(only(jpeg()), -1), "PNG")
    spec = ImageSpec(9, fit, 3)  # type: ignore[arg-type]
    assert np.array_equal(only(turned, spec), only(upright, spec))


def test_plain_and_odd_files_of_one_batch_stay_in_order() -> None:
    names = [name for name in NAMED if NAMED[name][1].shape == (32, 48, 3)]
    images, bad = decode_images([NAMED[name][0] for name in names], KEEP)
    assert bad == []
    for name, image in zip(names, images, strict=True):
        assert difference(image, NAMED[name][1]) <= 6, name


@pytest.mark.parametrize(
    "name", ["GIF, transparent", "WebP, transparent", "PNG, black on transparent"]
)
@pytest.mark.parametrize("kept", [0.5, 0.8])
def test_a_truncated_file_is_still_found(name: str, kept: float) -> None:
    file = NAMED[name][0]
    kind = name.partition(",")[0]
    bad = decode_images([file[: int(kept * len(file))]], KEEP)[1]
    assert bad == [(0, f"truncated or damaged {kind}")]


@pytest.mark.parametrize(
    ("find", "name"),
    [
        (decode._exif_in_jpeg, "JPEG, padded markers"),
        (decode._exif_in_png, "PNG, turned and transparent"),
        (decode._exif_in_webp, "WebP, EXIF as in a JPEG"),
    ],
    ids=["JPEG", "PNG", "WebP"],
)
def test_the_graph_and_the_header_agree_on_damaged_exif(find: Callable, name: str) -> None:
    """A thousand files with some bytes of their EXIF data, and before, changed or missing."""
    rng, file = np.random.default_rng(0), NAMED[name][0]
    place = file.index(DATA[:4]) if DATA[:4] in file else file.index(b"MM\0*")
    start, end = max(12, place - 40), place + len(DATA)
    files = [file]
    for _ in range(1000):
        changed = bytearray(file)
        for at in rng.integers(start, end, rng.integers(1, 4)):
            changed[at] = rng.choice([0, 1, 2, 3, 8, 255, rng.integers(256)])
        if rng.random() < 0.3:
            del changed[rng.integers(start, end) :]
        files.append(bytes(changed))
    each = tf.function(lambda one: tf.map_fn(find, one, fn_output_signature=tf.int32))
    found = each(tf.constant(files)).numpy()
    expected = [orientation_of(io.BytesIO(one)) for one in files]
    assert found.tolist() == expected
    assert len(set(expected)) > 1
