"""Pictures as files, also such as Pillow does not write."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from app.data.images import ImageSpec

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


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(width: int, height: int, bit_depth: int, data: bytes) -> bytes:
    """A PNG in colour of any size and depth, which Pillow does not write."""
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


def truncated(format: str, share: float = 0.5) -> bytes:
    content = encode(picture(64, 64), format)
    return content[: int(len(content) * share)]
