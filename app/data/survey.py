"""What looking into every example tells: headers, what cannot be decoded, lengths of texts.

Each function looks at the rows that it is given, so that the work can be dealt to workers; it knows
none of them. Nothing that is looked at is kept in memory.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from app.config import Data
from app.data.bad import BadExamples
from app.data.examples import EXAMPLES_AT_ONCE, Dataset, Source
from app.data.images import ImageSpec, MixedSizes, decode_images, fit_images, spec_of
from app.data.plan import Found, leave_out, merged
from app.data.sources.image_files import Header
from app.data.text.tokenizer import Lengths, Tokenizer
from app.errors import UserError
from app.pulse import PULSE


class Headers(NamedTuple):
    """What the headers of image files say: the rows that are bad, each (height, width), and
    whether all are grey."""

    bad: Found
    sizes: set[tuple[int, int]]
    grayscale: bool

    @classmethod
    def joined(cls, parts: Iterable["Headers"]) -> "Headers":
        bad, sizes, grayscale = zip(*parts, strict=True)
        return cls(merged(bad), set().union(*sizes), all(grayscale))


def look_at_headers(files: Source, rows: np.ndarray) -> Headers:
    """Read the headers of a source whose `content` is "files"."""
    headers = files.headers(rows)  # type: ignore[attr-defined]
    bad = [(int(r), h) for r, h in zip(rows, headers, strict=True) if isinstance(h, str)]
    good = [header for header in headers if isinstance(header, Header)]
    sizes = {(header.height, header.width) for header in good}
    return Headers(bad, sizes, all(header.grayscale for header in good))


def with_shape(dataset: Dataset, headers: Mapping[str, Headers], bad: BadExamples) -> Dataset:
    """The dataset with the shape of its images, without those whose header is bad.

    `headers`: of each split; of none where images are not files. Height and width are None if they
    differ or are not known before all is decoded.
    """
    height, width, channels = dataset.image_shape
    if dataset.train.content == "pixels":
        height, width, channels = dataset.train.read(np.arange(1)).shape[1:]
    if headers:
        splits = {
            name: leave_out(source, headers[name].bad, bad)
            for name, source in dataset.splits.items()
        }
        dataset = dataset.with_splits(splits)
        everything = Headers.joined(headers.values())
        sizes, channels = everything.sizes, 1 if everything.grayscale else 3
        height, width = next(iter(sizes)) if len(sizes) == 1 else (None, None)
    # Of four channels, the last is alpha.
    return dataclasses.replace(dataset, image_shape=(height, width, 1 if channels == 1 else 3))


def strict_spec(wanted: Data, dataset: Dataset) -> tuple[ImageSpec, tuple[int, int, int]]:
    """(how images are decoded to see whether they can be, their shape then), after `with_shape`.

    Raises UserError if sizes differ and `image_size` is not given.
    """
    height, width, channels = dataset.image_shape
    if wanted.image_size is None and (height is None or width is None):
        raise UserError(
            f"{wanted.dataset}: images have mixed sizes: give --image-size, e.g. 224", shared=True
        )
    if wanted.image_size:
        height = width = wanted.image_size
    assert height and width and channels
    shape = (height, width, channels)
    return dataclasses.replace(spec_of(wanted, shape), size=wanted.image_size), shape


def check_splits(dataset: Dataset) -> None:
    """Raise UserError for a split of which no good example is left; all ranks raise it alike."""
    for name, source in dataset.splits.items():
        if not len(source):
            raise UserError(f"{dataset.name}: no good example is left for {name}", shared=True)


def undecodable(source: Source, rows: np.ndarray, spec: ImageSpec) -> Found:
    """Which of the rows cannot be decoded; each is decoded once."""
    if source.content == "pixels":
        return []
    return [one for _, _, found in decoded(source, rows, spec) for one in found]


def decoded(
    source: Source, rows: np.ndarray, spec: ImageSpec
) -> Iterator[tuple[np.ndarray, np.ndarray, Found]]:
    """(rows, their images as uint8 (m, h, w, c), what cannot be decoded), some at a time."""
    for start in range(0, len(rows), EXAMPLES_AT_ONCE):
        PULSE.beat()
        some = rows[start : start + EXAMPLES_AT_ONCE]
        content = source.read(some)
        if source.content == "pixels":
            yield some, fit_images(content, spec), []
            continue
        try:
            images, failed = decode_images(content, spec)
        except MixedSizes as error:
            raise UserError(
                f"{source.where(int(some[error.positions[1]]))}: {error}: give --image-size, "
                "e.g. 224"
            ) from None
        good = np.delete(some, [position for position, _ in failed])
        yield good, images, [(int(some[position]), reason) for position, reason in failed]


def text_chunks(source: Source, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """The texts of the rows (None: of all) in order, as object arrays of str."""
    rows = np.arange(len(source)) if rows is None else rows
    for start in range(0, len(rows), EXAMPLES_AT_ONCE * 4):
        PULSE.beat()
        content = source.read(rows[start : start + EXAMPLES_AT_ONCE * 4])
        if not source.in_memory:
            texts = [text.decode("utf-8", "replace") for text in content]
            content = np.array([*texts, None], dtype=object)[:-1]
        yield content


def text_lengths(source: Source, tokenizer: Tokenizer, rows: np.ndarray | None = None) -> Lengths:
    """How long the texts of the rows (None: of all) are."""
    return Lengths.joined(tokenizer.encode(chunk)[1] for chunk in text_chunks(source, rows))
