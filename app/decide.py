"""The first half of loading: what is decided about a dataset, by all ranks alike.

Here lie the collectives: `app.data` does the work of one rank, and this file deals it to the ranks
and joins what they find.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from app.config import Data
from app.data.bad import BadExamples
from app.data.examples import Dataset, Source
from app.data.hold import (
    Held,
    allowed_bytes,
    choose,
    close_gaps,
    decode_into,
    image_bytes,
    text_bytes,
)
from app.data.host_memory import HostMemory
from app.data.images import ImageSpec, spec_of
from app.data.plan import DataPlan, Found, grouped, kept_rows, leave_out, merged, smallest
from app.data.survey import (
    Headers,
    check_splits,
    look_at_headers,
    strict_spec,
    text_chunks,
    text_lengths,
    undecodable,
    with_shape,
)
from app.data.text.tokenizer import Lengths, Tokenizer, build_tokenizer, tokenizer_from
from app.distributed.world import World
from app.errors import UserError

Pixels = dict[str, np.ndarray]  # the decoded images of each split


def decide(
    wanted: Data,
    dataset: Dataset,
    bad: BadExamples,
    world: World,
    trained: DataPlan | None = None,
    tokenizer: dict[str, Any] | None = None,
) -> tuple[DataPlan, Dataset, Pixels]:
    """(the plan, the dataset without what it leaves out, images that were decoded on the way); a
    collective, in which every example is looked at once, each rank its part.

    `trained`: the plan of a run whose network is to read the dataset; `tokenizer`: the JSON of the
    one to use, where none is to be made of the training texts.
    """
    if dataset.kind == "text":
        saved = trained.tokenizer if trained else tokenizer
        return _decide_texts(wanted, dataset, world, saved)
    return _decide_images(wanted, dataset, bad, world, trained)


class _Left(NamedTuple):
    """A split as it goes on, and what of it was left out: rows of the split as it was found."""

    source: Source
    found: Found

    def without(self, found: Found, bad: BadExamples) -> "_Left":
        """`found`: rows of what is left."""
        kept = kept_rows(len(self.source) + len(self.found), self.found)
        more = [(int(kept[row]), reason) for row, reason in found]
        return _Left(leave_out(self.source, found, bad), self.found + more)


def _decide_images(
    wanted: Data, dataset: Dataset, bad: BadExamples, world: World, trained: DataPlan | None
) -> tuple[DataPlan, Dataset, Pixels]:
    fingerprint = dataset.fingerprint
    dataset, headers = survey(dataset, bad, world)
    check_splits(dataset)
    with world.together():
        spec, shape = _fitting(trained, wanted, dataset)
    held = _choose(wanted.hold, image_bytes(dataset, shape), dataset, world)
    left = {
        name: _Left(source, headers[name].bad if headers else [])
        for name, source in dataset.splits.items()
    }
    pixels: Pixels = {}
    for name, (source, _) in left.items():
        if held.stream:
            found = find_undecodable(source, spec, world)
        else:
            pixels[name], found = decode_together(source, spec, shape, world)
        with world.together():
            left[name] = left[name].without(found, bad)
    height, width, channels = shape
    notes = {"images": f"{width}x{height}x{channels}, {held.why}"}
    dataset = dataset.with_splits({name: one.source for name, one in left.items()})
    found_in = {name: one.found for name, one in left.items()}
    plan = _plan_of(dataset, fingerprint, found_in, held, image_shape=shape, notes=notes)
    return plan, dataset, pixels


def survey(
    dataset: Dataset, bad: BadExamples, world: World
) -> tuple[Dataset, Mapping[str, Headers]]:
    """The dataset with the shape of its images, without those whose header is bad, and what the
    headers say, if images are files; a collective."""
    headers = {}
    for name, source in dataset.splits.items():
        if source.content == "files":
            with world.together():
                own = look_at_headers(source, np.arange(world.rank, len(source), world.size))
            headers[name] = Headers.joined(world.gather(own))
    with world.together():
        return with_shape(dataset, headers, bad), headers


def _fitting(
    trained: DataPlan | None, wanted: Data, dataset: Dataset
) -> tuple[ImageSpec, tuple[int, int, int]]:
    """How images are decoded, and their shape then."""
    if trained is None or trained.image_shape is None:
        return strict_spec(wanted, dataset)
    height, width, _ = trained.image_shape
    if height != width and dataset.image_shape[:2] != (height, width):
        raise UserError(
            f"the run reads images of {width}x{height} pixels, and those of {dataset.name} have "
            "other sizes: only for square images are they resized"
        )
    return spec_of(wanted, trained.image_shape), trained.image_shape


def find_undecodable(source: Source, spec: ImageSpec, world: World) -> Found:
    """Which images cannot be decoded, each rank its part, and none are kept; a collective."""
    with world.together():
        own = undecodable(source, np.arange(world.rank, len(source), world.size), spec)
    return merged(world.gather(own))


def decode_together(
    source: Source, spec: ImageSpec, shape: tuple[int, int, int], world: World
) -> tuple[np.ndarray, Found]:
    """(uint8 (n, h, w, c) of the images that can be decoded, the others); a collective. The ranks
    of a host decode a part each, into memory that they share."""
    pixels, part, parts = share_memory((len(source), *shape), world)
    with world.together():
        own = decode_into(pixels, source, np.arange(part, len(source), parts), spec)
    found = merged(world.gather(own))
    if found and part == 0:
        close_gaps(pixels, kept_rows(len(source), found))
    world.barrier()
    return pixels[: len(source) - len(found)], found


class Shared(NamedTuple):
    """Uint8 `array`, 0 at first, which `parts` ranks of this host share; this one is `part`."""

    array: np.ndarray
    part: int
    parts: int


def share_memory(shape: tuple[int, ...], world: World) -> Shared:
    """Memory of all ranks of a host, or a rank's own where they cannot share; a collective."""
    first = world.local_size > 1 and world.local_rank == 0
    memory = HostMemory.shared(math.prod(shape)) if first else HostMemory.private()
    offers = world.gather(memory.offer)
    if world.local_rank:
        memory = HostMemory.opened(offer for offer in offers if offer)
    # Everybody has opened it when this returns.
    mine = [rank for rank, of in enumerate(world.gather(memory.token)) if of == memory.token]
    if len(mine) < world.local_size:
        logging.getLogger(__name__).warning(
            "the ranks of this host cannot share memory, so each decodes and keeps all images: "
            "start them in one container, as one user"
        )
    return Shared(memory.array(shape), mine.index(world.rank), len(mine))


def _decide_texts(
    wanted: Data, dataset: Dataset, world: World, saved: dict[str, Any] | None
) -> tuple[DataPlan, Dataset, Pixels]:
    held = _choose(wanted.hold, text_bytes(dataset) * world.local_size, dataset, world)
    if saved is None:
        saved = world.from_chief(
            lambda: build_tokenizer(wanted, text_chunks(dataset.train)).to_json()
        )
    tokenizer = tokenizer_from(saved)
    lengths = {name: _lengths(one, tokenizer, world) for name, one in dataset.splits.items()}
    notes = {"texts": f"{tokenizer.summary}, {held.why}"} | _text_notes(lengths, tokenizer)
    read = {
        name: smallest(np.clip(split.tokens, 1, tokenizer.max_tokens))
        for name, split in lengths.items()
    }
    plan = _plan_of(
        dataset, dataset.fingerprint, {}, held, tokenizer=saved, lengths=read, notes=notes
    )
    return plan, dataset, {}


def _lengths(source: Source, tokenizer: Tokenizer, world: World) -> Lengths:
    """How long the texts are, each rank its part; a collective."""
    with world.together():
        rows = np.array_split(np.arange(len(source)), world.size)[world.rank]
        own = text_lengths(source, tokenizer, rows)
    return Lengths.joined(world.gather(own))


def _text_notes(lengths: Mapping[str, Lengths], tokenizer: Tokenizer) -> dict[str, str]:
    """What of the texts the model does not read."""

    def count(what: Callable[[np.ndarray], np.ndarray]) -> tuple[int, str]:
        found = {name: int(what(split.tokens).sum()) for name, split in lengths.items()}
        train = f"{found['train']:,} of {len(lengths['train'].tokens):,} in train"
        return sum(found.values()), train

    most = tokenizer.max_tokens
    total, train = count(lambda tokens: tokens > most)
    notes = {"cut": f"{total:,} texts longer than {most} tokens ({train})"}
    total, train = count(lambda tokens: tokens == tokenizer.added)
    if total:
        notes["no token"] = f"{total:,} texts, which the model cannot tell apart ({train})"
    if warning := tokenizer.warning(lengths["train"]):
        notes["warning"] = warning
    return notes


def _choose(wanted: str, needed_bytes: int, dataset: Dataset, world: World) -> Held:
    return choose(wanted, world.gather((needed_bytes, allowed_bytes())), dataset)


def _plan_of(
    dataset: Dataset, fingerprint: str, found: Mapping[str, Found], held: Held, **more: Any
) -> DataPlan:
    """`dataset`: without what was `found`; `fingerprint`: with it."""
    return DataPlan(
        name=dataset.name,
        kind=dataset.kind,
        class_names=dataset.class_names,
        fingerprint=fingerprint,
        examples={name: len(source) for name, source in dataset.splits.items()},
        left_out={name: grouped(rows) for name, rows in found.items() if rows},
        stream=held.stream,
        read_as=dataset.notes,
        heads=dataset.heads,
        **more,
    )
