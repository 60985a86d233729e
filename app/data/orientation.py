"""Which way up a picture is, from the EXIF data in its file; of a header, before anything is
decoded. The same rules as in decode.py, where a graph reads them; knows no TensorFlow."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

ORIENTATION_TAG, SHORT = 0x0112, 3


def orientation_of(file: BinaryIO) -> int:
    """1 to 8, as EXIF numbers them; 1 if a JPEG, PNG or WebP has no EXIF data, or malformed ones,
    and for every other format. From 5 on, width and height are exchanged."""
    file.seek(0)
    start = file.read(12)
    if start.startswith(b"\xff\xd8"):
        tiff = _exif_in_jpeg(file)
    elif start.startswith(b"\x89PNG"):
        tiff = _first(b"eXIf", _png_chunks(file), file)
    elif start.startswith(b"RIFF") and start.endswith(b"WEBP"):
        # Some programs put the first bytes of a JPEG's segment before the data.
        tiff = _first(b"EXIF", _webp_chunks(file), file).removeprefix(b"Exif\0\0")
    else:
        return 1
    return _orientation(tiff)


def _exif_in_jpeg(file: BinaryIO) -> bytes:
    """The EXIF data of the first APP1 segment that has some."""
    at = 2
    while True:
        file.seek(at)
        mark, marker, size = struct.unpack(">BBH", file.read(4).ljust(4, b"\0"))
        if mark == 0xFF and marker == 0xFF:  # markers may be padded
            at += 1
            continue
        if mark == 0xFF and marker == 0xE1 and file.read(6) == b"Exif\0\0":
            return file.read(max(0, size - 8))
        if mark != 0xFF or marker == 0xDA or size < 2:  # after 0xDA come the pixels
            return b""
        at += 2 + size


def _first(wanted: bytes, chunks: Iterator[tuple[bytes, int, int]], file: BinaryIO) -> bytes:
    """The content of the first chunk of that kind."""
    for kind, at, size in chunks:
        if kind == wanted:
            file.seek(at)
            return file.read(size)
    return b""


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, its size) of each chunk."""
    at = 8
    while len(head := _read(file, at, 8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        yield kind, at + 8, size
        at += 12 + size


def _webp_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    at = 12
    while len(head := _read(file, at, 8)) == 8:
        kind, size = struct.unpack("<4sI", head)
        yield kind, at + 8, size
        at += 8 + size + size % 2


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _orientation(tiff: bytes) -> int:
    """The orientation in EXIF data: a TIFF header and directory (CIPA DC-008)."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    if directory + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    rows = tiff[directory + 2 :][: 12 * entries]
    for tag, kind, count, value in struct.iter_unpack(
        order + "HHIHxx", rows[: len(rows) // 12 * 12]
    ):
        if (tag, kind, count) == (ORIENTATION_TAG, SHORT, 1) and 1 <= value <= 8:
            return value
    return 1
