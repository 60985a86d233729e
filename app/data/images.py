"""Image files: what their headers say, their bytes, and those bytes as arrays of equal shape.

Knows Pillow (headers), TensorFlow (pixels) and NumPy; nothing of splits, tables or workers.
"""

import functools
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, TypeVar

import numpy as np
import tensorflow as tf
from PIL import Image

from app.data.examples import add_texts
from app.errors import UserError

Result = TypeVar("Result")

# How a file begins, as TensorFlow tells the formats apart; WebP has its length after RIFF.
FORMATS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
NOT_AN_IMAGE = "not an image that TensorFlow reads (JPEG, PNG, GIF, BMP, WebP)"
# Images decoded by one call of the graph: bounds its memory, and how many are decoded again if one
# of them is bad.
IMAGES_PER_CALL = 512
# Threads that read: more than cores, because on a network's file system they mostly wait.
READERS = 8


@dataclass(frozen=True)
class ImageSpec:
    """What all images become: uint8 `(size, size, channels)`.

    Args:
        size: height and width in pixels; None keeps them, and all images must be equal.
        fit: "crop" cuts the largest square out of the centre and resizes that, "stretch" resizes
            without regard to the proportions, "pad" resizes until the longer side fits and puts
            black around.
        channels: 3 for colour, 1 for grey.

    Raises:
        ValueError: a value is not one of these.
    """

    size: int | None
    fit: Literal["crop", "stretch", "pad"]
    channels: int

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, or None; got {self.size}")
        if self.fit not in ("crop", "stretch", "pad"):
            raise ValueError(f"fit must be crop, stretch or pad; got {self.fit!r}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3; got {self.channels}")


class MixedSizes(ValueError):  # noqa: N818 - says what was found, as KeyError does not
    """Images that should be equal in size are not.

    `positions` are those of the first image and of the first that differs from it, `sizes` their
    (height, width).
    """

    def __init__(self, positions: tuple[int, int], sizes: tuple[tuple[int, int], tuple[int, int]]):
        (first, other), ((height, width), (other_height, other_width)) = positions, sizes
        super().__init__(
            f"image {first} is {width}x{height} and image {other} is {other_width}x{other_height}"
        )
        self.positions = positions
        self.sizes = sizes


def decode_image(encoded: tf.Tensor, spec: ImageSpec) -> tf.Tensor:
    """One image from the bytes of its file, in the graph: a string scalar to uint8 `(h, w, c)`.

    Resizing is bilinear with antialiasing; an image that already has the right size is returned as
    it is. A transparent image loses its alpha, an animated one all but its first frame, and a
    rotation in the EXIF data is not applied.
    """
    # Always three channels: TensorFlow reads only JPEG and PNG as grey.
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, (None, None, 3))
    if spec.channels == 1:
        # ITU-R BT.601, as JPEG and Pillow have it. The weights sum to 1, so grey stays exactly.
        luma = tf.tensordot(tf.cast(image, tf.float32), (0.299, 0.587, 0.114), 1)
        image = _to_uint8(luma)[..., tf.newaxis]
    if spec.size is None:
        return image
    size, shape = spec.size, tf.shape(image)[:2]
    fit = {"crop": _crop, "stretch": _resize, "pad": _pad}[spec.fit]
    fitted = tf.cond(tf.reduce_all(shape == size), lambda: image, lambda: fit(image, (size, size)))
    return tf.ensure_shape(fitted, (size, size, spec.channels))


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)


def _resize(image: tf.Tensor, size: Any) -> tf.Tensor:
    return _to_uint8(tf.image.resize(image, size, antialias=True))


def _crop(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    # Cut, then resize: the other way round a picture of 1x60000 would take 40 GB on its way to 224.
    shape = tf.shape(image)[:2]
    side = tf.reduce_min(shape)
    top, left = tf.unstack((shape - side) // 2)
    return _resize(image[top : top + side, left : left + side], size)


def _pad(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    shape = tf.shape(image)[:2]
    longest = tf.reduce_max(shape)
    scaled = tf.maximum(1, (2 * shape * size[0] + longest) // (2 * longest))  # rounds halves up
    before = (size - scaled) // 2
    paddings = tf.stack([before, size - scaled - before], axis=1)
    return tf.pad(_resize(image, scaled), tf.concat([paddings, [[0, 0]]], axis=0))


@functools.cache
def _decoder(spec: ImageSpec) -> Callable[[tf.Tensor], tf.Tensor]:
    shape = tf.TensorSpec((spec.size, spec.size, spec.channels), tf.uint8)

    # map_fn rather than tf.data: twice as many small JPEGs a second.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(encoded: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):  # the decoders are there; no hopping between them and a GPU
            return tf.map_fn(
                lambda one: decode_image(one, spec),
                encoded,
                fn_output_signature=shape,
                parallel_iterations=32,
            )

    return decode


def decode_images(
    encoded: Sequence[bytes], spec: ImageSpec
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Many images from the bytes of their files, decoded on all cores.

    Returns:
        The images that could be decoded, in order, uint8 `(good, h, w, c)`; and of the others
        their positions in `encoded`, ascending, with what is wrong.

    Raises:
        MixedSizes: the spec keeps the sizes, and they differ.
    """
    good: list[np.ndarray] = []  # arrays (m, h, w, c)
    bad: list[tuple[int, str]] = []
    first: tuple[int, tuple[int, int]] | None = None  # position and size of the first good image
    for start in range(0, len(encoded), IMAGES_PER_CALL):
        part = encoded[start : start + IMAGES_PER_CALL]
        for position, decoded in _decode_part(part, start, spec):
            if isinstance(decoded, str):
                bad.append((position, decoded))
                continue
            size = decoded.shape[1:3]
            first = first or (position, size)
            if size != first[1]:
                raise MixedSizes((first[0], position), (first[1], size))
            good.append(decoded)
    if not good:
        return np.empty((0, spec.size or 0, spec.size or 0, spec.channels), np.uint8), bad
    return np.concatenate(good), bad


def _decode_part(
    encoded: Sequence[bytes], start: int, spec: ImageSpec
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Arrays `(m, h, w, c)` or reasons, each with its position; one array unless some are bad."""
    decoded: np.ndarray | str | None = None
    try:
        decoded = _decoder(spec)(tf.constant(encoded)).numpy()
    except tf.errors.InvalidArgumentError:  # a bad image, or two sizes
        if len(encoded) == 1:
            header = read_header(encoded[0])
            damaged = f"truncated or damaged {_format(encoded[0])}"
            decoded = header if isinstance(header, str) else damaged
    if decoded is not None:
        yield start, decoded
        return
    step = -(-len(encoded) // 16)
    for offset in range(0, len(encoded), step):
        yield from _decode_part(encoded[offset : offset + step], start + offset, spec)


@dataclass(frozen=True)
class Header:
    """What an image says of itself before its pixels, in pixels; alpha does not make it colour."""

    width: int
    height: int
    grayscale: bool


def read_header(content_or_path: bytes | str | os.PathLike) -> Header | str:
    """The header of an image, or what is wrong with it and what to do about it.

    Besides files that are not images, this finds what TensorFlow would decode to something else
    than the picture: CMYK, 16 bits a channel, animations, BMP with a palette. Pixels are not
    decoded, so a truncated file may pass.

    Raises:
        OSError: the file cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return _read_header(content_or_path)


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
            width, height = image.size
            return _unsuited(image, start) or Header(width, height, image.mode in ("1", "L", "LA"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller"
    except Exception:  # Pillow's readers raise whatever a damaged file makes them stumble over
        known = _format(start)
        return f"truncated or damaged {known}" if known else NOT_AN_IMAGE


def _unsuited(image: Image.Image, start: bytes) -> str | None:
    """Why TensorFlow would not read this image, or would read another one; None if it is fine."""
    known = _format(start)
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


def _format(start: bytes) -> str | None:
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in FORMATS.items() if start.startswith(magic)), None)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """A split as image files, which are read when they are asked for. Uses no TensorFlow.

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

    def take(self, indices: np.ndarray) -> "ImageFiles":
        """The files at `indices` (int `(m,)`), in that order."""
        origins = None if self.origins is None else [self.origins[index] for index in indices]
        return ImageFiles(self.root, self.paths[indices], self.labels[indices], origins)

    def add_to(self, digest: "hashlib.blake2b") -> None:
        """Add the paths, the sizes of the files and the labels to a fingerprint."""
        add_texts(digest, self.paths)
        sizes = self._each(np.arange(len(self)), os.path.getsize)
        digest.update(np.array(sizes, dtype="<i8").data)
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
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return self._each(indices, _read_header)

    def _each(self, indices: np.ndarray, function: Callable[[str], Result]) -> list[Result]:
        def run(part: np.ndarray) -> list[Result]:
            return [self._open(index, function) for index in part]

        parts = np.array_split(np.asarray(indices), READERS)
        with ThreadPoolExecutor(READERS) as pool:
            return [result for results in pool.map(run, parts) for result in results]

    def _open(self, index: int, function: Callable[[str], Result]) -> Result:
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
