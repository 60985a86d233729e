"""`python -m app data SOURCE`: print what a source holds, or write a copy for fast streaming."""

import shlex
from pathlib import Path

from app.config import Config
from app.data.bad import BadExamples
from app.data.examples import Dataset
from app.data.export import check_directory, export_tfrecord
from app.data.images import ImageSpec, spec_of
from app.data.plan import leave_out
from app.data.report import report_bad, report_on
from app.data.survey import check_splits, text_chunks, text_lengths
from app.data.text.tokenizer import Lengths, build_tokenizer
from app.decide import find_undecodable, survey
from app.distributed.world import World
from app.errors import UserError
from app.load import open_dataset

CHECKED_PIXELS = 32  # a size at which images of mixed sizes are decoded to see whether they can be


def show_data(config: Config, export: Path | None = None) -> None:
    """Print the report of `config.data`, and write the copy if a directory is given; one process.

    Every bad example is listed, however many there are; but they are only exported without if
    `on_bad` allows it. Raises UserError for what cannot be read.
    """
    wanted, bad = config.data, BadExamples("skip")
    if export is not None:
        place = (wanted.data_dir or Path()) / wanted.dataset
        check_directory(export, place if place.is_dir() else None)
    try:
        dataset, spec = _sound_dataset(config, bad)
    except UserError:
        if bad.found:
            print(report_bad(bad.found))
        raise
    lengths: dict[str, Lengths] = {}
    warning = None
    if dataset.kind == "text":
        tokenizer = build_tokenizer(wanted, text_chunks(dataset.train))
        lengths = {name: text_lengths(one, tokenizer) for name, one in dataset.splits.items()}
        warning = tokenizer.warning(lengths["train"])
    tokens = {name: split.tokens for name, split in lengths.items()}
    warnings = [warning] if warning else []
    print(report_on(dataset, tokens, bad.found, wanted.max_tokens, bad.notes, warnings))
    if export is not None:
        allowed = BadExamples(wanted.on_bad)
        for one in bad.found:
            allowed.add(one.where, one.reason)
        bad.check(sum(map(len, dataset.splits.values())) + len(bad.found))
        export_tfrecord(dataset, export, config.training.seed, spec)
        keys = [name for name, _ in dataset.heads] if len(dataset.heads) > 1 else []
        more = f" --label-key {shlex.quote(','.join(keys))}" if keys else ""
        print(f"\nwritten to {export}: train on it with --dataset {export}{more}")


def _sound_dataset(config: Config, bad: BadExamples) -> tuple[Dataset, ImageSpec | None]:
    """The dataset without its bad examples, and how images are brought to the size asked for."""
    wanted, spec = config.data, None
    dataset = open_dataset(config, bad, World())
    check_splits(dataset)
    if dataset.kind == "image":
        dataset, _ = survey(dataset, bad, World())
        check_splits(dataset)
        if pixels := wanted.image_size:
            spec = spec_of(wanted, (pixels, pixels, dataset.image_shape[2] or 3))
        check = spec or _check_spec(dataset)
        splits = {
            name: leave_out(source, find_undecodable(source, check, World()), bad)
            for name, source in dataset.splits.items()
        }
        dataset = dataset.with_splits(splits)
        check_splits(dataset)
    return dataset, spec


def _check_spec(dataset: Dataset) -> ImageSpec:
    height, width, channels = dataset.image_shape
    return ImageSpec(None if height and width else CHECKED_PIXELS, "stretch", channels or 3)
