"""Pictures as people have them: what a file shows to people is what the model gets.

Each case is a file of a few pixels, and what it shows: turned upright by its EXIF data, and what is
transparent on white.
"""

import dataclasses
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from app.__main__ import main
from app.commands.evaluate_run import evaluate_run
from app.commands.export_model import export
from app.commands.predict_inputs import Item
from app.commands.predictor import Predictor
from app.commands.saved_run import open_run
from app.config import Data, rgb_of
from app.data import decode
from app.data.images import ImageSpec, decode_images
from app.data.orientation import orientation_of
from app.data.sources.image_files import Header, read_header
from app.distributed.world import World
from app.load import load_data

WHITE, RED = (255, 255, 255), (255, 0, 0)
# What each orientation makes of the pixels that are stored, by its definition: where the first row
# and the first column of the stored picture are seen.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,  # top, left
    2: lambda stored: stored[:, ::-1],  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: lambda stored: stored[::-1],  # bottom, left
    5: lambda stored: stored.swapaxes(0, 1),  # left, top
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda stored: stored.swapaxes(0, 1)[::-1],  # left, bottom
}


def colors() -> np.ndarray:
    """Six squares of different colours, uint8 (32, 48, 3)."""
    squares = np.array(
        [[(200, 30, 30), (30, 200, 30), (30, 30, 200)], [(90,) * 3, (170,) * 3, RED]]
    )
    return squares.repeat(16, axis=0).repeat(16, axis=1).astype(np.uint8)


def glyph() -> np.ndarray:
    """Black on transparent black, with a soft edge, uint8 (32, 48, 4)."""
    pixels = np.zeros((32, 48, 4), np.uint8)
    pixels[:16, :8, 3] = 255
    pixels[16:, :8, 3] = 100
    return pixels


def on(background: tuple[int, int, int], pixels: np.ndarray) -> np.ndarray:
    """Pixels (h, w, 4) on a colour, (h, w, 3), by the definition of "over" (Porter and Duff)."""
    share = pixels[..., 3:] / 255
    return np.floor(pixels[..., :3] * share + np.array(background) * (1 - share) + 0.5)


def encode(pixels: np.ndarray, format: str, mode: str | None = None, **options) -> bytes:
    image, file = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(file, format, **options)
    return file.getvalue()


def tiff(orientation: int, order: str = "<", kind: int = 3, count: int = 1) -> bytes:
    """EXIF data with two entries, the second the orientation."""
    entries = struct.pack(order + "HHII", 0x010F, 2, 4, 0) + struct.pack(
        order + "HHIHH", 0x0112, kind, count, orientation, 0
    )
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(order + "IH", 8, 2) + entries + bytes(4)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(*before: bytes) -> bytes:
    """The colours, with bytes before their own segments, and after JFIF's."""
    plain = encode(colors(), "JPEG", quality=95, subsampling=0)
    return plain[:20] + b"".join(before) + plain[20:]


def exif(data: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + data)


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def eXIf(data: bytes) -> bytes:  # noqa: N802 - as PNG calls it
    return chunk(b"eXIf", data)


def png(before: bytes = b"", after: bytes = b"", pixels: np.ndarray | None = None) -> bytes:
    """A PNG with more chunks before its pixels and after them."""
    plain = encode(colors() if pixels is None else pixels, "PNG")
    return plain[:33] + before + plain[33:-12] + after + plain[-12:]


def webp(data: bytes, pixels: np.ndarray | None = None) -> bytes:
    """A WebP with this content of its EXIF chunk."""
    pixels = colors() if pixels is None else pixels
    return encode(pixels, "WEBP", lossless=True, exact=True, exif=data)


def gif(local: bool = False, key: int | None = 0, frame: tuple[int, int] = (4, 4)) -> bytes:
    """4 x 4 pixels of two colours in columns, black and orange, colour `key` transparent; or a
    smaller frame at the right and the bottom. Compressed without compression: 9 codes of 4 bits
    each, and a fresh start after every second pixel."""
    table = bytes((0, 0, 0, 250, 150, 50, 9, 9, 9, 9, 9, 9))
    width, height = frame
    codes = [code for _ in range(width * height // 2) for code in (4, 0, 1)] + [5]
    bits = sum(code << 3 * place for place, code in enumerate(codes))
    data = bits.to_bytes(-(-3 * len(codes) // 8), "little")
    comment = b"\x21\xfe\x05hello\x00"
    control = struct.pack("<BBBBHBB", 0x21, 0xF9, 4, int(key is not None), 0, key or 0, 0)
    flags = 0x81 if local else 0
    where = struct.pack("<BHHHHB", 0x2C, 4 - width, 4 - height, width, height, flags)
    screen = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x81, 0, 0)
    globals_ = bytes(range(100, 112)) if local else table
    image = where + (table if local else b"") + bytes((2, len(data))) + data + b"\x00;"
    return screen + globals_ + comment + control + image


def gif_shown(left: tuple[int, int, int], frame: tuple[int, int] = (4, 4)) -> np.ndarray:
    pixels = np.full((4, 4, 3), 255, np.uint8)
    pixels[4 - frame[1] :, 4 - frame[0] :] = np.tile(
        np.array([left, (250, 150, 50)], np.uint8), (frame[1], frame[0] // 2, 1)
    )
    return pixels


def bmp(alpha_mask: int) -> bytes:
    """The glyph in a BMP of 32 bits a pixel, with masks for its channels (version 4)."""
    header = struct.pack("<IiiHHIIiiII", 108, 48, 32, 1, 32, 3, 4 * 48 * 32, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, alpha_mask) + b"BGRs" + bytes(48)
    data = glyph()[::-1, :, [2, 1, 0, 3]].tobytes()
    start = b"BM" + struct.pack("<IHHI", 14 + 108 + len(data), 0, 0, 14 + 108)
    return start + header + masks + data


def keyed(mode: str) -> bytes:
    """The colours, where the 90 of the grey square is the transparent colour."""
    key = {"RGB": (90, 90, 90), "L": 90}[mode]
    return encode(colors(), "PNG", mode, transparency=key)


def quantized() -> bytes:
    file = io.BytesIO()
    Image.fromarray(colors()).quantize(8).save(file, "PNG")
    return file.getvalue()


def palette_glyph(**options) -> bytes:
    image, file = Image.fromarray(glyph()[..., 3] // 100).convert("P"), io.BytesIO()
    image.putpalette(bytes(9))
    image.save(file, "PNG", transparency=bytes((0, 100, 255)), **options)
    return file.getvalue()


SHOWN, GLYPH = colors(), on(WHITE, glyph())
KEYED = np.where((SHOWN == 90).all(axis=2, keepdims=True), 255, SHOWN)
GREY_KEYED = np.where(KEYED == 255, 255, np.array(Image.fromarray(SHOWN).convert("L"))[..., None])
GREY_KEYED[16:, 32:] = 76  # red
BLACK = np.zeros((32, 48, 3), np.uint8)
MANY_ENTRIES = b"MM\0*" + struct.pack(">IH", 8, 65535) + bytes(24)
DATA, UPSIDE_DOWN = tiff(3), UPRIGHT[3](SHOWN)
PROFILE = segment(0xE2, bytes(65000))
XMP = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
# (name, file, what it shows)
CASES = [
    *((f"JPEG, orientation {n}", jpeg(exif(tiff(n))), UPRIGHT[n](SHOWN)) for n in UPRIGHT),
    *((f"PNG, orientation {n}", png(eXIf(tiff(n, ">"))), UPRIGHT[n](SHOWN)) for n in UPRIGHT),
    *((f"WebP, orientation {n}", webp(tiff(n)), UPRIGHT[n](SHOWN)) for n in UPRIGHT),
    ("JPEG, highest byte first", jpeg(exif(tiff(6, ">"))), UPRIGHT[6](SHOWN)),
    ("JPEG, after a large profile", jpeg(PROFILE * 3, exif(DATA)), UPSIDE_DOWN),
    ("JPEG, after XMP", jpeg(XMP, exif(DATA)), UPSIDE_DOWN),
    ("JPEG, padded markers", jpeg(b"\xff\xff", exif(DATA), b"\xff"), UPRIGHT[3](SHOWN)),
    ("PNG, EXIF after the pixels", png(after=eXIf(tiff(8))), UPRIGHT[8](SHOWN)),
    ("WebP, EXIF as in a JPEG", webp(b"Exif\0\0" + tiff(6)), UPRIGHT[6](SHOWN)),
    ("EXIF without an orientation", jpeg(exif(tiff(3).replace(b"\x12\x01", b"\x13\x01"))), SHOWN),
    ("orientation 0", jpeg(exif(tiff(0))), SHOWN),
    ("orientation 9", png(eXIf(tiff(9))), SHOWN),
    ("orientation as a text", jpeg(exif(tiff(3, kind=2))), SHOWN),
    ("two orientations in one entry", webp(tiff(3, count=2)), SHOWN),
    ("EXIF cut off in the directory", jpeg(exif(DATA[:-12])), SHOWN),
    ("EXIF cut off in its header", jpeg(exif(DATA[:6])), SHOWN),
    ("a directory beyond the end", png(eXIf(b"II*\0\xff\xff\xff\xff" + DATA[8:])), SHOWN),
    ("65,535 entries and none there", jpeg(exif(MANY_ENTRIES)), SHOWN),
    ("no entries", jpeg(exif(DATA[:8] + b"\0\0" + DATA[22:])), SHOWN),
    ("another order of bytes", jpeg(exif(b"XX" + DATA[2:])), SHOWN),
    ("empty EXIF", png(eXIf(b"")), SHOWN),
    ("EXIF in a comment", jpeg(segment(0xFE, exif(DATA))), SHOWN),
    ("EXIF of another picture after this", jpeg() + jpeg(exif(DATA)), SHOWN),
    ("EXIF in a PNG's text", png(chunk(b"tEXt", b"note\0" + eXIf(DATA))), SHOWN),
    ("PNG, black on transparent", encode(glyph(), "PNG"), GLYPH),
    ("PNG, grey and alpha", encode(glyph(), "PNG", "LA"), GLYPH),
    ("PNG, palette with alpha", palette_glyph(), GLYPH),
    ("PNG, palette of 2 bits with alpha", palette_glyph(bits=2), GLYPH),
    ("PNG, palette without alpha", quantized(), SHOWN),
    ("PNG, a transparent colour", keyed("RGB"), KEYED),
    ("PNG, a transparent grey", keyed("L"), GREY_KEYED),
    ("PNG, opaque alpha", encode(colors(), "PNG", "RGBA"), SHOWN),
    ("PNG with other chunks", encode(colors(), "PNG", dpi=(72, 72)), SHOWN),
    ("PNG, turned and transparent", png(eXIf(tiff(6)), pixels=glyph()), UPRIGHT[6](GLYPH)),
    ("WebP, transparent", encode(glyph(), "WEBP", lossless=True), GLYPH),
    ("WebP, transparent and lossy", encode(glyph(), "WEBP", quality=95), GLYPH),
    ("WebP, turned and transparent", webp(tiff(8), glyph()), UPRIGHT[8](GLYPH)),
    ("GIF, transparent", gif(), gif_shown(WHITE)),
    ("GIF, transparent with its own colours", gif(local=True), gif_shown(WHITE)),
    ("GIF, opaque", gif(key=None), gif_shown((0, 0, 0))),
    ("GIF, a transparent colour that is not there", gif(key=200), gif_shown((0, 0, 0))),
    ("GIF, smaller than its canvas", gif(frame=(2, 3)), gif_shown(WHITE, (2, 3))),
    ("GIF, opaque on a larger canvas", gif(key=None, frame=(2, 2)), gif_shown((0, 0, 0), (2, 2))),
    ("BMP, alpha", bmp(0xFF000000), GLYPH),
    ("BMP, a byte that is not alpha", bmp(0), BLACK),
    ("BMP of 32 bits, no masks", encode(glyph(), "BMP"), BLACK),
]  # fmt: skip
OWN_RULES = (  # of ours, where Pillow has others
    "orientation as a text",
    "two orientations in one entry",
    "GIF, a transparent colour that is not there",
    "GIF, opaque on a larger canvas",
)
NAMED = {name: (file, shown) for name, file, shown in CASES}
KEEP = ImageSpec(None, "crop", 3)


def difference(pixels: np.ndarray, shown: np.ndarray) -> float:
    assert pixels.shape == shown.shape
    return float(np.abs(pixels.astype(float) - shown).max())


def only(file: bytes, spec: ImageSpec = KEEP) -> np.ndarray:
    images, bad = decode_images([file], spec)
    assert bad == []
    return images[0]


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


ODD = ("JPEG, orientation 3", "PNG, black on transparent", "WebP, transparent")


def write_odd(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"odd {number}.{name[:4].strip(',')}" for number, name in enumerate(ODD)]
    for path, name in zip(paths, ODD, strict=True):
        path.write_bytes(NAMED[name][0])
    return paths


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on `pictures`, where a turned JPEG, a transparent PNG and a transparent
    WebP are among others, and transparent is red."""
    root = tmp_path_factory.mktemp("field")
    write_odd(root / "pictures" / "class 0")
    for label, pixels in enumerate((colors(), colors()[::-1])):
        folder = root / "pictures" / f"class {label}"
        folder.mkdir(exist_ok=True)
        for number in range(20):
            (folder / f"{number}.png").write_bytes(encode(pixels + np.uint8(number), "PNG"))
    flags = ["--image-size=16", "--background=#ff0000", "--epochs=2", "--width=4"]
    run = ["train", "--run-dir", str(root / "run"), "--dataset", str(root / "pictures")]
    assert main([*run, *flags, "--per-rank-batch-size=4"]) == 0
    return root


@pytest.mark.full_matrix
def test_training_evaluation_prediction_and_export_agree_on_what_a_picture_is(
    trained: Path, tmp_path: Path
) -> None:
    run = open_run(trained / "run")
    odd = write_odd(tmp_path / "odd" / "class 0")
    turned = only(NAMED["JPEG, orientation 1"][0])[::-1, ::-1]
    glyph_on_red = np.asarray(on(RED, glyph()), np.uint8)
    shown = [encode(pixels, "PNG") for pixels in (turned, glyph_on_red, glyph_on_red)]
    pixels, _ = decode_images(shown, run.image_spec)
    network = run.classifier
    wanted = tf.nn.softmax(network(pixels, training=False)).numpy()
    ignorant, _ = decode_images([png(), png(pixels=glyph()[..., :3])], run.image_spec)
    other = tf.nn.softmax(network(ignorant, training=False)).numpy()
    assert np.abs(other - wanted[:2]).max(axis=1).min() > 1e-3  # or this test shows nothing

    for hold in ("memory", "stream"):
        plan = run.plan if hold == "memory" else dataclasses.replace(run.plan, stream=True)
        splits = load_data(run.config, World(), plan).splits.values()
        held = [one for s in splits for one in s.inputs(np.arange(len(s)), 0).numpy()]
        for one in pixels:
            assert min(difference(here, one) for here in held) <= 1, hold
    answers = Predictor(run)([Item(str(path), None) for path in odd])
    predicted = [[one["probabilities"][name] for name in run.class_names] for one in answers]
    np.testing.assert_allclose(predicted, wanted, atol=1e-4)
    data = {"dataset": str(tmp_path / "odd")}
    scores = evaluate_run(run.directory, data, None, tmp_path / "scores", World())
    assert scores["loss"] == pytest.approx(-np.log(wanted[:, 0]).mean(), abs=1e-3)
    path = export(run.directory, "savedmodel", None, None)
    serve = tf.saved_model.load(path).signatures["serving_default"]
    served = serve(inputs=tf.constant([one.read_bytes() for one in odd]))["probabilities"]
    np.testing.assert_allclose(served, predicted, atol=1e-5)
    card = path.with_name("savedmodel.md").read_text()
    assert "turned upright as their EXIF data say" in card and "lies on #ff0000" in card


def test_another_background_is_another_run(trained: Path, capsys) -> None:
    flags = ["--dataset", str(trained / "pictures"), "--image-size=16", "--resume"]
    code = main(["train", "--run-dir", str(trained / "run"), *flags, "--background=blue"])
    assert code == 2
    assert "background" in capsys.readouterr().err


def test_data_counts_what_is_turned_and_what_is_transparent(trained: Path, capsys) -> None:
    assert main(["data", str(trained / "pictures")]) == 0
    shown = capsys.readouterr().out
    assert "turned upright as their EXIF data say: 1 images" in shown
    assert "with transparency, shown on the colour of --background: 2 images" in shown
