"""From sources to splits that batches can be taken from: in memory, or streamed.

Every function that takes a `world` is a collective: what is bad, and where examples are held, is
decided by all ranks alike. The work of looking into every file is dealt to the ranks.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tensorflow as tf

from app.config import Data, rgb_of
from app.data.bad import BadExamples
from app.data.batches import Loaded, Split, Streamed
from app.data.examples import Dataset, Examples, Source
from app.data.host_memory import share_memory
from app.data.images import ImageSpec, MixedSizes, decode_batch, decode_images, fit_images
from app.data.sources.image_files import Header, ImageFiles
from app.data.sources.synthetic import SyntheticImages
from app.data.text.tokenizer import Lengths, Tokenizer
from app.errors import UserError

MEMORY_SHARE = 0.5  # of what is free; the rest is for TensorFlow, and for copies while loading
READ_AT_ONCE = 1024
# What decoding every image of a stream found: (row, reason) of each bad one, by the fingerprint of
# the dataset, the split and how images are decoded. JSON.
Checked = dict[str, list[tuple[int, str]]]
BYTES_PER_CHARACTER = 4  # a Python text, and an id of 4 bytes for each of its tokens


@dataclasses.dataclass(frozen=True)
class Held:
    """Where examples are kept, and why."""

    stream: bool
    why: str


def free_memory_bytes() -> int:
    """Memory that this host, or this container, can still give."""
    free = psutil.virtual_memory().available
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(0, free)


def choose(wanted: str, needed_bytes: int, can_stream: bool, what: str, world: Any) -> Held:
    """Memory while all ranks of every host fit, else a stream.

    Raises UserError if neither is possible. `needed_bytes`: of all ranks of this host; `what` names
    the dataset.
    """
    allowed = MEMORY_SHARE * free_memory_bytes()
    on_hosts = world.gather((needed_bytes, allowed))
    needed, allowed = max(on_hosts, key=lambda host: host[0] / max(1, host[1]))
    size = f"{_size(needed)} on a host, {_size(allowed)} allowed"
    if wanted == "stream" and not can_stream:
        raise UserError(
            f"hold = 'stream': {what} is in memory already: write it to files first (python -m "
            "app data SOURCE --export tfrecord DIR), and give DIR as dataset",
            shared=True,
        )
    if wanted == "auto" and needed <= allowed:
        return Held(False, f"in memory ({size})")
    if wanted == "memory" and needed > allowed:
        raise UserError(f"hold = 'memory': {what} needs {size}: leave hold out", shared=True)
    if wanted == "memory" or not can_stream:
        return Held(False, f"in memory ({size})")
    return Held(True, f"streamed from files ({size if wanted == 'auto' else 'as asked'})")


def _size(in_bytes: float) -> str:
    return f"{in_bytes / 1e9:,.1f} GB" if in_bytes >= 1e8 else f"{in_bytes / 1e6:,.1f} MB"


def survey(dataset: Dataset, bad: BadExamples, world: Any) -> Dataset:
    """The dataset with the shape of its images, without those whose header is bad; a collective.

    Height and width are None if they differ or are not known before all is decoded.
    """
    height, width, channels = dataset.image_shape
    if isinstance(dataset.train, Examples):
        height, width, channels = dataset.train.inputs.shape[1:]
    if isinstance(dataset.train, ImageFiles):
        dataset, height, width, channels = _survey_files(dataset, bad, world)
    # Of four channels, the last is alpha.
    return dataclasses.replace(dataset, image_shape=(height, width, 1 if channels == 1 else 3))


def image_spec(data: Data, dataset: Dataset) -> tuple[ImageSpec, tuple[int, int]]:
    """(how images are decoded, their height and width then), after a `survey`.

    Raises UserError if sizes differ and `image_size` is not given.
    """
    height, width, channels = dataset.image_shape
    if data.image_size is None and (height is None or width is None):
        raise UserError(
            f"{data.dataset}: images have mixed sizes: give --image-size, e.g. 224", shared=True
        )
    if data.image_size:
        height = width = data.image_size
    assert height and width and channels
    spec = ImageSpec(data.image_size, data.image_fit, channels, rgb_of(data.background))
    return spec, (height, width)


def check_splits(dataset: Dataset) -> None:
    """Raise UserError for a split of which no good example is left; all ranks raise it alike."""
    for name, source in dataset.splits.items():
        if not len(source):
            raise UserError(f"{dataset.name}: no good example is left for {name}", shared=True)


def _survey_files(dataset: Dataset, bad: BadExamples, world: Any):
    """Read the header of every image file, dealt to the ranks."""
    sizes: set[tuple[int, int]] = set()
    grayscale = True
    splits: dict[str, Source] = {}
    for name, files in dataset.splits.items():
        own = np.arange(world.rank, len(files), world.size)
        with world.together():
            headers = files.headers(own)  # type: ignore[attr-defined]
        bad_here = [(int(i), h) for i, h in zip(own, headers, strict=True) if isinstance(h, str)]
        good = [header for header in headers if isinstance(header, Header)]
        about = (bad_here, {(h.height, h.width) for h in good}, all(h.grayscale for h in good))
        gathered = world.gather(about)
        found = [one for rank in gathered for one in rank[0]]
        with world.together():
            splits[name] = leave_out(files, found, bad)
        sizes |= set().union(*(rank[1] for rank in gathered))
        grayscale &= all(rank[2] for rank in gathered)
    dataset = dataset.with_splits(splits)
    height, width = next(iter(sizes)) if len(sizes) == 1 else (None, None)
    return dataset, height, width, 1 if grayscale else 3


def leave_out(source: Source, found: list[tuple[int, str]], bad: BadExamples) -> Source:
    """The source without the examples (index, reason) that are bad; the first in the order of the
    dataset ends the run under on_bad = "error"."""
    if not found:
        return source
    for index, reason in sorted(found):
        bad.add(source.where(index), reason)
    return source.take(np.setdiff1d(np.arange(len(source)), [index for index, _ in found]))


def hold_images(
    dataset: Dataset,
    spec: ImageSpec,
    size: tuple[int, int],
    held: Held,
    bad: BadExamples,
    world: Any,
    checked: Checked | None = None,
) -> tuple[dict[str, Split], Dataset]:
    """The splits as images, and the dataset without those that cannot be decoded; a collective.

    `checked`: what is known of streamed images, the same on all ranks; added to.
    """
    shape = (*size, spec.channels)
    splits: dict[str, Split] = {}
    sources: dict[str, Source] = {}
    checked = {} if checked is None else checked
    for name, source in dataset.splits.items():
        if held.stream:
            decode = None
            if not _has_pixels(source):
                with world.together():
                    key = f"{dataset.fingerprint} {name} {spec}"  # asks the sizes of files
                if key not in checked:
                    checked[key] = _undecodable(source, spec, world)
                with world.together():
                    source = leave_out(source, checked[key], bad)
                decode = functools.partial(decode_batch, spec=spec, size=size)
            splits[name] = Streamed(source, decode)
        else:
            images, source = _decoded(source, spec, shape, bad, world)
            splits[name] = Loaded(images, source.labels)
        sources[name] = source
    if all(sources[name] is source for name, source in dataset.splits.items()):
        return splits, dataset  # which knows its fingerprint
    return splits, dataset.with_splits(sources)


def _has_pixels(source: Source) -> bool:
    """Whether `read` gives images, and not their encoded bytes."""
    return isinstance(source, Examples | SyntheticImages)


def _decoded(
    source: Source, spec: ImageSpec, shape: tuple[int, int, int], bad: BadExamples, world: Any
) -> tuple[tf.Tensor, Source]:
    """(uint8 (n, h, w, c), the source) of what can be decoded; a collective. The ranks of a host
    decode a part each, into memory that they share."""
    pixels, part, parts = share_memory((len(source), *shape), world)
    own, found = np.arange(part, len(source), parts), []
    with world.together():
        for start in range(0, len(own), READ_AT_ONCE):
            rows = own[start : start + READ_AT_ONCE]
            images, failed = _decode(source, rows, spec)
            good = np.delete(rows, [position for position, _ in failed])
            if len(images) and images.shape[1:] != shape:
                raise UserError(
                    f"{source.where(int(good[0]))}: {images.shape[2]}x{images.shape[1]}, but other "
                    f"images {shape[1]}x{shape[0]}: give --image-size, e.g. 224"
                )
            if len(images):  # else their shape is not known
                pixels[good] = images
            found += [(int(rows[position]), reason) for position, reason in failed]
    found = _of_all(found, world)
    with world.together():
        left = leave_out(source, found, bad)
    if found and part == 0:
        _close_gaps(pixels, np.setdiff1d(np.arange(len(source)), [row for row, _ in found]))
    world.barrier()
    # Without a copy: TensorFlow reads the memory itself, which is at the beginning of a page.
    return tf.experimental.dlpack.from_dlpack(pixels[: len(left)].__dlpack__()), left


def _of_all(found: list[tuple[int, str]], world: Any) -> list[tuple[int, str]]:
    """What all ranks found, in the order of the dataset; what two hosts found is one."""
    return sorted({row: reason for rank in world.gather(found) for row, reason in rank}.items())


def _close_gaps(pixels: np.ndarray, kept: np.ndarray) -> None:
    """Move the kept rows, ascending, to the front."""
    for start in range(0, len(kept), READ_AT_ONCE):
        rows = kept[start : start + READ_AT_ONCE]
        pixels[start : start + len(rows)] = pixels[rows]


def _decode(source: Source, rows: np.ndarray, spec: ImageSpec):
    content = source.read(rows)
    if isinstance(content, np.ndarray):
        return fit_images(content, spec), []
    try:
        return decode_images(content, spec)
    except MixedSizes as error:
        raise UserError(
            f"{source.where(int(rows[error.positions[1]]))}: {error}: give --image-size, e.g. 224"
        ) from None


def check_images(dataset: Dataset, spec: ImageSpec, bad: BadExamples, world: Any) -> Dataset:
    """The dataset without images that cannot be decoded; none are kept in memory."""
    splits = {
        name: leave_out(one, [] if _has_pixels(one) else _undecodable(one, spec, world), bad)
        for name, one in dataset.splits.items()
    }
    return dataset.with_splits(splits)


def _undecodable(source: Source, spec: ImageSpec, world: Any) -> list[tuple[int, str]]:
    """(row, reason) of what cannot be decoded; a collective: every image is decoded once, each
    rank its part, and none are kept."""
    own = np.arange(world.rank, len(source), world.size)
    found = []
    with world.together():
        for start in range(0, len(own), READ_AT_ONCE):
            rows = own[start : start + READ_AT_ONCE]
            _, failed = _decode(source, rows, spec)
            found += [(int(rows[position]), reason) for position, reason in failed]
    return _of_all(found, world)


def text_chunks(source: Source) -> Iterator[np.ndarray]:
    """All texts in order, as object arrays of str."""
    for start in range(0, len(source), READ_AT_ONCE * 4):
        rows = np.arange(start, min(start + READ_AT_ONCE * 4, len(source)))
        content = source.read(rows)
        if not isinstance(content, np.ndarray):
            texts = [text.decode("utf-8", "replace") for text in content]
            content = np.array([*texts, None], dtype=object)[:-1]
        yield content


def hold_texts(
    dataset: Dataset, tokenizer: Tokenizer, held: Held, world: Any
) -> tuple[dict[str, Split], dict[str, Lengths]]:
    """The splits as token ids, and how long the texts of each are; a collective."""
    splits: dict[str, Split] = {}
    found: dict[str, Lengths] = {}
    for name, source in dataset.splits.items():
        if held.stream:
            found[name] = world.from_chief(functools.partial(text_lengths, source, tokenizer))
            lengths = np.clip(found[name].tokens, 1, tokenizer.max_tokens)
            splits[name] = Streamed(source, tokenizer.ids_of, lengths=lengths)
            continue
        with world.together(), tf.device("CPU"):
            parts = [tokenizer.encode(chunk) for chunk in text_chunks(source)]
            ids = tf.concat([part for part, _ in parts], axis=0)
        found[name] = Lengths.joined(lengths for _, lengths in parts)
        splits[name] = Loaded(ids, source.labels, ids.row_lengths().numpy())
    return splits, found


def text_lengths(source: Source, tokenizer: Tokenizer) -> Lengths:
    """How long the texts of a source are; none are kept in memory."""
    return Lengths.joined(tokenizer.encode(chunk)[1] for chunk in text_chunks(source))


def image_bytes(dataset: Dataset, size: tuple[int, int], channels: int) -> int:
    """Memory for all splits as uint8 images, which the ranks of a host share."""
    return sum(len(source) for source in dataset.splits.values()) * math.prod(size) * channels


def text_bytes(dataset: Dataset) -> int:
    """Memory for all splits as texts and token ids, of one rank; a rough guess."""
    return sum(_characters(source) for source in dataset.splits.values()) * BYTES_PER_CHARACTER


def _characters(source: Source) -> int:
    if isinstance(source, Examples):
        return sum(map(len, source.inputs))
    return int(getattr(source, "length", np.zeros(0)).sum())
