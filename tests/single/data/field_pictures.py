"""Pictures as people have them: files of a few pixels, and what each shows.

It is turned upright by its EXIF data, and what is transparent is on white.
"""

import io
import struct
from collections.abc import Callable

import numpy as np
from PIL import Image

from app.data.images import ImageSpec, decode_images
from tests.single.data.pictures import KEEP, chunk, encode

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


def difference(pixels: np.ndarray, shown: np.ndarray) -> float:
    assert pixels.shape == shown.shape
    return float(np.abs(pixels.astype(float) - shown).max())


def only(file: bytes, spec: ImageSpec = KEEP) -> np.ndarray:
    images, bad = decode_images([file], spec)
    assert bad == []
    return images[0]
