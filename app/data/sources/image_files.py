"""Image files: what their headers say, and their bytes. Uses Pillow and no TensorFlow."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, TypeVar

import numpy as np
from PIL import Image

from app.data.examples import Content, add_texts
from app.data.orientation import orientation_of
from app.errors import UserError
from app.pulse import PULSE

Result = TypeVar("Result")

# How a file begins, as TensorFlow tells the formats apart; WebP has its length after RIFF.
FORMATS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
NOT_AN_IMAGE = "not an image that TensorFlow reads (JPEG, PNG, GIF, BMP, WebP)"
# Threads that read: more than cores, because on a network's file system they mostly wait.
READERS = 8


@dataclass(frozen=True)
class Header:
    """What an image says of itself before its pixels; alpha does not make it colour.

    `width` and `height`, in pixels, are those of the upright image; `turned`: its EXIF data say
    that it is to be turned or mirrored first; `alpha`: it may have transparent pixels.
    """

    width: int
    height: int
    grayscale: bool
    turned: bool = False
    alpha: bool = False


def read_header(content_or_path: bytes | str | os.PathLike) -> Header | str:
    """The header of an image, or what is wrong with it and what to do about it.

    Besides files that are not images, this finds what TensorFlow would decode to something other
    than the picture: CMYK, 16 bits a channel, animations, BMP with a palette. Pixels are not
    decoded, so a truncated file may pass.

    Raises:
        OSError: the file cannot be read.
    """
    with warnings.catch_warnings():
        _set_filters()
        return _read_header(content_or_path)


def _set_filters() -> None:
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    warnings.simplefilter("ignore", UserWarning)  # of EXIF data: malformed means none


def _read_header(content_or_path: bytes | str | os.PathLike) -> Header | str:
    if isinstance(content_or_path, bytes):
        return _inspect(io.BytesIO(content_or_path))
    with open(content_or_path, "rb") as file:
        return _inspect(file)


def _inspect(file: BinaryIO) -> Header | str:
    start = file.read(32)
    file.seek(0)
    if not start:
        return "zero bytes"
    try:
        with Image.open(file) as image:
            unsuited = _unsuited(image, start)
            orientation = orientation_of(file)
            width, height = image.size if orientation < 5 else image.size[::-1]
            gray, alpha = image.mode in ("1", "L", "LA"), image.has_transparency_data
            return unsuited or Header(width, height, gray, orientation > 1, alpha)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller"
    except Exception:  # Pillow's readers raise whatever a damaged file makes them stumble over
        known = format_of(start)
        return f"truncated or damaged {known}" if known else NOT_AN_IMAGE


def _unsuited(image: Image.Image, start: bytes) -> str | None:
    """Why TensorFlow would not read this image, or would read another one; None if it is fine."""
    known = format_of(start)
    if not known:
        return f"{image.format}, which TensorFlow does not read: convert it to JPEG or PNG"
    if image.mode == "CMYK":  # Pillow's name for YCCK too
        return "four colour channels (CMYK): convert it to RGB"
    if known == "PNG" and start[24] == 16:  # the bit depth in IHDR; of the five only PNG has 16
        return "16 bits a channel: convert it to 8"
    if known == "BMP" and (image.mode in "1P" or image.info.get("compression") not in (0, 3)):
        return "a BMP with a palette or compressed, which TensorFlow misreads: convert it to PNG"
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and known != "JPEG":  # cameras append a preview to a JPEG (MPO): nobody reads it
        return f"animated, {frames} frames: take one frame out"
    return None


def format_of(start: bytes) -> str | None:
    """The format of a file that TensorFlow reads, by its first bytes; None for any other."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in FORMATS.items() if start.startswith(magic)), None)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """A split as image files, which are read when they are asked for.

    Args:
        root: the folder that the paths start from.
        paths: paths relative to `root`, str in an object array `(n,)`.
        labels: class ids, int64 `(n,)`.
        origins: where each path was named, such as "list.csv, line 3"; None if the path says it.

    Raises:
        ValueError: a dtype is another one, or the lengths differ.
    """

    root: Path
    paths: np.ndarray
    labels: np.ndarray
    origins: list[str] | None = None
    files_of: ClassVar[None] = None
    content: ClassVar[Content] = "files"
    in_memory: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.paths.dtype != object or self.labels.dtype != np.int64:
            raise ValueError(
                "paths must be an object array of str and labels int64; "
                f"got {self.paths.dtype} and {self.labels.dtype}"
            )
        origins = len(self.paths) if self.origins is None else len(self.origins)
        if not len(self.paths) == len(self.labels) == origins:
            raise ValueError(
                f"{len(self.paths)} paths, {len(self.labels)} labels, {origins} origins"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size_bytes(self) -> int:
        return sum(self._sizes())

    def _sizes(self) -> list[int]:
        return self._each(np.arange(len(self)), os.path.getsize)

    def take(self, indices: np.ndarray) -> "ImageFiles":
        """The files at `indices` (int `(m,)`), in that order."""
        origins = None if self.origins is None else [self.origins[index] for index in indices]
        return ImageFiles(self.root, self.paths[indices], self.labels[indices], origins)

    def add_to(self, digest: "hashlib.blake2b") -> None:
        """Add the paths, the sizes of the files and the labels to a fingerprint."""
        add_texts(digest, self.paths)
        digest.update(np.array(self._sizes(), dtype="<i8").data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)

    def where(self, index: int) -> str:
        """The file, after the row that names it, for a message to the user."""
        path = os.path.join(self.root, self.paths[index])
        return path if self.origins is None else f"{self.origins[index]}: {path}"

    def read(self, indices: np.ndarray) -> list[bytes]:
        """The bytes of the files at `indices` (int `(m,)`).

        Raises UserError for a file that cannot be read.
        """
        return self._each(indices, _read_bytes)

    def headers(self, indices: np.ndarray) -> list[Header | str]:
        """What `read_header` says of the files at `indices` (int `(m,)`).

        Raises UserError for a file that cannot be read.
        """
        # The filters are the whole process's: set once here, not in every thread.
        with warnings.catch_warnings():
            _set_filters()
            return self._each(indices, _read_header)

    def _each(self, indices: np.ndarray, function: Callable[[str], Result]) -> list[Result]:
        def run(part: np.ndarray) -> list[Result]:
            return [self._open(index, function) for index in part]

        parts = np.array_split(np.asarray(indices), READERS)
        with ThreadPoolExecutor(READERS) as pool:
            return [result for results in pool.map(run, parts) for result in results]

    def _open(self, index: int, function: Callable[[str], Result]) -> Result:
        PULSE.beat()
        try:
            return function(os.path.join(self.root, self.paths[index]))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"{self.where(index)} cannot be read: {reason}. It was there when the dataset was "
                "listed: leave a dataset alone while a run uses it"
            ) from None


def _read_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
