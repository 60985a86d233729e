"""Loads the data that a config names, ready for the network.

Loading has two halves. `decide` looks at every example, once per run, and returns a `DataPlan` that
is saved with the run; `hold` opens the data by that plan. A resumed run, and `evaluate` on the
run's own data, need only the second.
"""

import dataclasses
from collections.abc import Callable

from app.config import Config, Data
from app.data.bad import Bad, BadExamples
from app.data.batches import Split
from app.data.catalogue import load_dataset, prepare_dataset
from app.data.examples import Dataset
from app.data.hold import check_decoded, hold
from app.data.images import spec_of
from app.data.plan import DataPlan
from app.data.sources.records import keep_also
from app.data.survey import check_splits
from app.decide import Pixels, decide, decode_together
from app.distributed.world import World
from app.errors import UserError
from app.preflight import check_model, check_sizes
from app.pretrained.find import find
from app.pretrained.found import Found
from app.rundir import contents

MOST_LEFT_OUT = 12  # lines about what was left out, in the plan of a run


@dataclasses.dataclass(frozen=True)
class LoadedData:
    """A dataset ready for the network, the same on every rank.

    `plan`: what was decided about it; `bad`: the examples that were left out; `notes`: facts about
    it, for people.
    """

    dataset: Dataset
    splits: dict[str, Split]
    plan: DataPlan
    bad: list[Bad]
    notes: dict[str, str]


def load_data(config: Config, world: World, plan: DataPlan | None = None) -> LoadedData:
    """Open the dataset as `plan` says, or decide on one first; a collective.

    Raises UserError if it is not the dataset of the plan saved in the run directory.
    """
    bad = BadExamples(config.data.on_bad)
    dataset = open_dataset(config, bad, world)
    with world.together():
        check_model(config, dataset.name, dataset.kind)
        _check_keys(config, dataset)
        if plan is not None and config.run.run_dir is not None:
            contents.check_same_data(config.run.run_dir, plan, dataset.fingerprint)
    with bad.shown_before_errors():
        check_splits(dataset)
        if plan is None:
            plan, dataset, pixels = _decide(config, dataset, bad, world)
        else:
            dataset, pixels = follow(plan, config.data, dataset, bad, world)
    with world.together(), bad.shown_before_errors():
        splits = hold(plan, config.data, dataset.splits, pixels)
        bad.check(sum(map(len, splits.values())) + len(bad.found))
        check_splits(dataset)
        check_sizes(config, dataset, world.size)
    notes = dict(plan.notes)
    if left_out := bad.left_out(MOST_LEFT_OUT):
        notes["left out"] = "\n    ".join(["", *left_out])
    return LoadedData(dataset, splits, plan, bad.found, notes)


def _decide(
    config: Config, dataset: Dataset, bad: BadExamples, world: World
) -> tuple[DataPlan, Dataset, Pixels]:
    """See `decide`; pretrained weights bring the tokenizer, or the size of images, along."""
    found, wanted = _pretrained(config, world), config.data
    if found is None:
        return decide(wanted, dataset, bad, world)
    if wanted.image_size is None:
        wanted = wanted.model_copy(update={"image_size": found.image_size})
    plan, dataset, pixels = decide(wanted, dataset, bad, world, tokenizer=found.tokenizer)
    return dataclasses.replace(plan, pretrained=found.network), dataset, pixels


def _pretrained(config: Config, world: World) -> Found | None:
    """What the chief finds, which alone needs the files, with their checksum; a collective."""

    def read() -> Found | None:
        found = find(config)
        if found is None:
            return None
        return dataclasses.replace(found, network=found.network | {"sha256": found.sha256()})

    return world.from_chief(read)


def open_dataset(config: Config, bad: BadExamples, world: World) -> Dataset:
    """Prepare the dataset (one rank per host) and find its examples; a collective."""
    if config.run.run_dir:
        keep_also(config.run.run_dir.parent)
    return open_alike(
        config.data, lambda: load_dataset(config.data, config.training.seed, bad), bad, world
    )


def open_alike(
    wanted: Data, read: Callable[[], Dataset], bad: BadExamples, world: World
) -> Dataset:
    """What `read` gives, once one rank per host has prepared it; the same on all ranks."""
    with world.together():
        if world.local_rank == 0:
            prepare_dataset(wanted)
    with world.together(), bad.shown_before_errors():
        dataset = read()
        fingerprint = dataset.fingerprint  # reads the sizes of files
    world.verify_same({"dataset": fingerprint})
    return dataset


def _check_keys(config: Config, dataset: Dataset) -> None:
    if dataset.kind == "text" and (config.augmentation.is_on or config.data.image_size is not None):
        what = "image_size" if config.data.image_size is not None else "[augmentation]"
        raise UserError(f"{what} is for images, but {dataset.name} holds texts")


def follow(
    plan: DataPlan, wanted: Data, dataset: Dataset, bad: BadExamples, world: World
) -> tuple[Dataset, Pixels]:
    """The dataset without what a plan leaves out, and its images if they are kept in memory.

    The ranks of a host decode them together; a collective that decides nothing.
    """
    with world.together():
        dataset = plan.without_bad(dataset, bad)
    pixels: Pixels = {}
    if plan.image_shape and not plan.stream:
        spec = spec_of(wanted, plan.image_shape)
        for name, source in dataset.splits.items():
            pixels[name], found = decode_together(source, spec, plan.image_shape, world)
            with world.together():
                check_decoded(source, found)
    return dataset, pixels
