"""The bytes of image files as arrays of equal shape, by TensorFlow: one in a graph, or many."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import tensorflow as tf

from app.config import Data
from app.config.values import rgb_of
from app.data.decode import decode_plain, decode_seen, needs_care
from app.data.examples import Content, Source
from app.data.sources.image_files import format_of, read_header

# Images decoded by one call of the graph: bounds its memory, and how many are decoded again if one
# of them is bad.
IMAGES_PER_CALL = 512

Size = tuple[int | None, int | None]


@dataclass(frozen=True)
class ImageSpec:
    """What all images become: uint8 `(size, size, channels)`.

    Args:
        size: height and width in pixels; None keeps them, and all images must be equal.
        fit: "crop" cuts the largest square out of the centre and resizes that, "stretch" resizes
            without regard to the proportions, "pad" resizes until the longer side fits and puts
            black around.
        channels: 3 for colour, 1 for grey.
        background: what lies behind transparent pixels; red, green and blue, 0 to 255.

    Raises:
        ValueError: a value is not one of these.
    """

    size: int | None
    fit: Literal["crop", "stretch", "pad"]
    channels: int
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, or None; got {self.size}")
        if self.fit not in ("crop", "stretch", "pad"):
            raise ValueError(f"fit must be crop, stretch or pad; got {self.fit!r}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3; got {self.channels}")
        if len(self.background) != 3 or not all(0 <= part <= 255 for part in self.background):
            raise ValueError(f"background must be three of 0 to 255; got {self.background}")


def spec_of(wanted: Data, shape: tuple[int, int, int]) -> ImageSpec:
    """How encoded images become (height, width, channels): square ones are resized, others must
    have that size already."""
    height, width, channels = shape
    size = height if height == width else None
    return ImageSpec(size, wanted.image_fit, channels, rgb_of(wanted.background))


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
    it is. The image is turned upright as its EXIF data says, what is transparent lies on the
    spec's background, and an animated one gives its first frame.
    """
    encoded = tf.convert_to_tensor(encoded)  # Python's bytes would be traced one by one
    return _finish(decode_seen(encoded, needs_care(encoded), spec.background), spec)


def _finish(image: tf.Tensor, spec: ImageSpec) -> tf.Tensor:
    """An image in colour, uint8 (h, w, 3), as the spec wants it."""
    if spec.channels == 1:
        # ITU-R BT.601, as JPEG and Pillow have it. The weights sum to 1, so grey stays exactly.
        luma = tf.tensordot(tf.cast(image, tf.float32), (0.299, 0.587, 0.114), 1)
        image = _to_uint8(luma)[..., tf.newaxis]
    return fit_image(image, spec)


def fit_image(image: tf.Tensor, spec: ImageSpec) -> tf.Tensor:
    """An image, uint8 (h, w, c), brought to the size of the spec; in the graph."""
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


def decode_batch(encoded: tf.Tensor, spec: ImageSpec, size: Size) -> tf.Tensor:
    """Images from the bytes of their files, in the graph: strings (n,) to uint8 `(n, h, w, c)`.

    `size`: their height and width, None if not known. One function for training, evaluation,
    prediction and exports, so that they agree on what a picture is.
    """
    care = needs_care(encoded)

    def each(decode: Callable[..., tf.Tensor], files: Any) -> tf.Tensor:
        # map_fn rather than tf.data: twice as many small JPEGs a second.
        return tf.map_fn(
            lambda one: _finish(decode(one), spec),
            files,
            fn_output_signature=tf.TensorSpec((*size, spec.channels), tf.uint8),
            parallel_iterations=32,
        )

    return tf.cond(
        tf.reduce_any(care),
        lambda: each(lambda one: decode_seen(one[0], one[1], spec.background), (encoded, care)),
        lambda: each(decode_plain, encoded),
    )


@functools.cache
def _decoder(spec: ImageSpec) -> Callable[[tf.Tensor], tf.Tensor]:
    def decode(encoded: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):  # the decoders are there; no hopping between them and a GPU
            return decode_batch(encoded, spec, (spec.size, spec.size))

    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(decode, input_signature=signature, autograph=False)


@functools.cache
def _fitter(spec: ImageSpec) -> Callable[[tf.Tensor], tf.Tensor]:
    def fit(images: tf.Tensor) -> tf.Tensor:
        shape = tf.TensorSpec((spec.size, spec.size, spec.channels), tf.uint8)
        with tf.device("CPU:0"):
            return tf.map_fn(lambda one: fit_image(one, spec), images, fn_output_signature=shape)

    return tf.function(fit, reduce_retracing=True)


def fit_images(images: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """Many images, uint8 (n, h, w, c), brought to the size of the spec."""
    fits = spec.size is None or images.shape[1:3] == (spec.size, spec.size)
    return images if fits else _fitter(spec)(tf.constant(images)).numpy()


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
            damaged = f"truncated or damaged {format_of(encoded[0])}"
            decoded = header if isinstance(header, str) else damaged
    if decoded is not None:
        yield start, decoded
        return
    step = -(-len(encoded) // 16)
    for offset in range(0, len(encoded), step):
        yield from _decode_part(encoded[offset : offset + step], start + offset, spec)


@dataclass(frozen=True, eq=False)
class PixelsAsFiles:
    """Images in memory as PNG files, so that they are resized, and turned to grey or colour, as
    files are."""

    source: Source
    content: ClassVar[Content] = "encoded"

    @property
    def in_memory(self) -> bool:
        return self.source.in_memory

    @property
    def size_bytes(self) -> int:
        return self.source.size_bytes

    @property
    def labels(self) -> np.ndarray:
        return self.source.labels

    @property
    def files_of(self) -> np.ndarray | None:
        return self.source.files_of

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: np.ndarray) -> "PixelsAsFiles":
        return PixelsAsFiles(self.source.take(indices))

    def read(self, indices: np.ndarray) -> list[bytes]:
        return [tf.io.encode_png(image).numpy() for image in self.source.read(indices)]

    def where(self, index: int) -> str:
        return self.source.where(index)

    def add_to(self, digest: Any) -> None:
        self.source.add_to(digest)
