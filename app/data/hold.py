"""Opens a dataset by its plan: splits that batches can be taken from, in memory or streamed.

Nothing is decided here and no other worker is needed, so a rank that comes later can do it alone.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from app.config import Data
from app.data.batches import Loaded, Split, Streamed
from app.data.examples import EXAMPLES_AT_ONCE, Dataset, Source
from app.data.host_memory import HostMemory
from app.data.images import ImageSpec, decode_batch, spec_of
from app.data.plan import DataPlan, Found
from app.data.survey import decoded, text_chunks
from app.data.text.tokenizer import Tokenizer, tokenizer_from
from app.doctor.machine import free_memory_bytes
from app.errors import UserError

MEMORY_SHARE = 0.5  # of what is free; the rest is for TensorFlow, and for copies while loading
BYTES_PER_CHARACTER = 4  # a Python text, and an id of 4 bytes for each of its tokens


@dataclasses.dataclass(frozen=True)
class Held:
    """Where examples are kept, and why."""

    stream: bool
    why: str


def allowed_bytes() -> float:
    """How much memory examples may take on this host; infinite if that is not known."""
    free = free_memory_bytes()
    return math.inf if free is None else MEMORY_SHARE * free


def image_bytes(dataset: Dataset, shape: tuple[int, int, int]) -> int:
    """Memory for all splits as uint8 images, which the ranks of a host share."""
    return sum(map(len, dataset.splits.values())) * math.prod(shape)


def text_bytes(dataset: Dataset) -> int:
    """Memory for all splits as texts and token ids, of one rank; a rough guess."""
    return sum(source.size_bytes for source in dataset.splits.values()) * BYTES_PER_CHARACTER


def choose(wanted: str, on_hosts: Sequence[tuple[float, float]], dataset: Dataset) -> Held:
    """Memory while all ranks of every host fit, else a stream.

    `on_hosts`: (bytes needed by all ranks, bytes allowed) of each host. Raises UserError if neither
    is possible.
    """
    needed, allowed = max(on_hosts, key=lambda host: host[0] / max(1, host[1]))
    size = f"{_size(needed)} on a host, {_size(allowed)} allowed"
    in_memory = dataset.train.in_memory
    if wanted == "stream":
        check_stream(dataset)
    if wanted == "auto" and needed <= allowed:
        return Held(False, f"in memory ({size})")
    if wanted == "memory" and needed > allowed:
        what = f"hold = 'memory': {dataset.name} needs {size}"
        raise UserError(f"{what}: leave hold out", shared=True)
    if wanted == "memory" or in_memory:
        return Held(False, f"in memory ({size})")
    return Held(True, f"streamed from files ({size if wanted == 'auto' else 'as asked'})")


def check_stream(dataset: Dataset) -> None:
    """Raise UserError if a dataset cannot be streamed, because it is in memory already."""
    if dataset.train.in_memory:
        raise UserError(
            f"hold = 'stream': {dataset.name} is in memory already: write it to files first "
            "(python -m app data SOURCE --export tfrecord DIR), and give DIR as dataset",
            shared=True,
        )


def _size(in_bytes: float) -> str:
    return f"{in_bytes / 1e9:,.1f} GB" if in_bytes >= 1e8 else f"{in_bytes / 1e6:,.1f} MB"


def hold(
    plan: DataPlan,
    wanted: Data,
    sources: Mapping[str, Source],
    pixels: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Split]:
    """The splits as the network reads them.

    Args:
        plan: of the dataset that the sources are splits of.
        wanted: the `[data]` that the plan was made for.
        sources: the splits to open, without what the plan leaves out.
        pixels: their images, uint8 (n, h, w, c), where they have been decoded already.
    """
    if plan.tokenizer is not None:
        tokenizer = tokenizer_from(plan.tokenizer)
        return {
            name: _hold_texts(source, tokenizer, plan.lengths[name] if plan.stream else None)
            for name, source in sources.items()
        }
    assert plan.image_shape
    shape, spec, splits = plan.image_shape, spec_of(wanted, plan.image_shape), {}
    for name, source in sources.items():
        if plan.stream:
            splits[name] = _stream_images(source, spec, shape)
            continue
        images = pixels[name] if pixels else _decode_alone(source, spec, shape)
        # Without a copy: TensorFlow reads the memory itself, which is at the beginning of a page.
        splits[name] = Loaded(
            tf.experimental.dlpack.from_dlpack(images.__dlpack__()), source.labels
        )
    return splits


def _hold_texts(source: Source, tokenizer: Tokenizer, lengths: np.ndarray | None) -> Split:
    """A stream where `lengths` are given, else in memory."""
    if lengths is not None:
        return Streamed(source, tokenizer.ids_of, lengths=lengths)
    with tf.device("CPU"):
        ids = tf.concat([tokenizer.encode(chunk)[0] for chunk in text_chunks(source)], axis=0)
    return Loaded(ids, source.labels, ids.row_lengths().numpy())


def _stream_images(source: Source, spec: ImageSpec, shape: tuple[int, int, int]) -> Split:
    if source.content == "pixels":
        return Streamed(source, None)
    return Streamed(source, functools.partial(decode_batch, spec=spec, size=shape[:2]))


def _decode_alone(source: Source, spec: ImageSpec, shape: tuple[int, int, int]) -> np.ndarray:
    pixels = HostMemory.private().array((len(source), *shape))
    check_decoded(source, decode_into(pixels, source, np.arange(len(source)), spec))
    return pixels


def decode_into(pixels: np.ndarray, source: Source, rows: np.ndarray, spec: ImageSpec) -> Found:
    """Decode the rows to their places in `pixels`, uint8 (n, h, w, c); returns what is bad.

    Raises UserError for an image of another size.
    """
    shape, bad = pixels.shape[1:], []
    for good, images, found in decoded(source, rows, spec):
        if len(images) and images.shape[1:] != shape:
            raise UserError(
                f"{source.where(int(good[0]))}: {images.shape[2]}x{images.shape[1]}, but other "
                f"images {shape[1]}x{shape[0]}: give --image-size, e.g. 224"
            )
        if len(images):  # else their shape is not known
            pixels[good] = images
        bad += found
    return bad


def check_decoded(source: Source, found: Found) -> None:
    """Raise UserError if an image cannot be decoded that could be when the plan was made."""
    if found:
        row, reason = found[0]
        raise UserError(
            f"{source.where(row)}: {reason}, but it could be decoded when the run was begun: bring "
            "the old file back, or train anew"
        )


def close_gaps(pixels: np.ndarray, kept: np.ndarray) -> None:
    """Move the kept rows, ascending, to the front."""
    for start in range(0, len(kept), EXAMPLES_AT_ONCE):
        rows = kept[start : start + EXAMPLES_AT_ONCE]
        pixels[start : start + len(rows)] = pixels[rows]
