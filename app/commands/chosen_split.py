"""The split that `evaluate` scores: one of a run's own, or of another source, as the run's network
reads it. Calls collectives."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from app.commands.saved_run import SavedRun, open_run
from app.config import Data, section_of
from app.data.bad import BadExamples
from app.data.batches import Split
from app.data.catalogue import read_dataset
from app.data.examples import Dataset, Source
from app.data.heads import MISSING, ONLY, by_head
from app.data.hold import check_stream, hold
from app.data.images import PixelsAsFiles
from app.data.plan import DataPlan, leave_out
from app.data.survey import check_splits
from app.decide import decide
from app.distributed.world import World
from app.errors import UserError, suggest
from app.load import follow, open_alike, open_dataset
from app.recipe import load
from app.rundir.contents import MAY_DIFFER
from app.version import code_version

# What the network was trained to read; another value would be another model.
OF_THE_TEXTS = ("tokens", "vocabulary_size", "ngrams", "max_tokens")
OF_THE_MODEL = (*OF_THE_TEXTS, "image_size", "image_fit", "background")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One split of a dataset, to be scored.

    `dataset` has that split alone, as `train`, its labels numbered as the run's; `plan`: how it is
    opened, None where that is not decided yet; `name`: what its results are kept under; `split`:
    "train", "validation", "test", or "all" for a source that has but one; `fingerprint` and
    `examples`, bad ones included: of all splits together.
    """

    dataset: Dataset
    plan: DataPlan | None
    name: str
    split: str
    fingerprint: str
    examples: int


class Opened(NamedTuple):
    """A chosen split as the network reads it, its source without what cannot be decoded, and what
    was left out."""

    split: Split
    source: Source
    bad: BadExamples


def open_together(run_dir: Path, checkpoint: str, weights: str | None, world: World) -> SavedRun:
    """The run with the weights of a checkpoint, the same on all ranks; a collective."""
    with world.together():
        run = open_run(run_dir, checkpoint, weights) if world.is_chief else None
    # The others open the same one, also where the run goes on and writes newer ones.
    name = world.broadcast(run.checkpoint.name if run else "")
    with world.together():
        run = run or open_run(run_dir, name, weights)
    same = {"checkpoint": f"{run.checkpoint.name} {run.identity}"}
    world.verify_same(code_version() | same | {"temperatures": repr(run.temperatures)})
    return run


def open_split(
    run: SavedRun, overrides: dict[str, Any], split: str | None, world: World
) -> tuple[Chosen, Opened]:
    """A split to score; see `evaluate_run`; a collective."""
    with world.together():
        data = _data_config(run, overrides)
    world.verify_same({"data and split": repr((data, split))})
    bad = BadExamples(data.on_bad)
    choose_split = _own if _is_own(overrides) else _other
    choice = choose_split(run, data, split, bad, world)
    with bad.shown_before_errors():
        examples, source = _hold(run, choice, data, bad, world)
    with world.together():
        bad.check(choice.examples)
    return choice, Opened(examples, source, bad)


def _is_own(overrides: dict[str, Any]) -> bool:
    return overrides.keys() <= set(MAY_DIFFER)


def _data_config(run: SavedRun, overrides: dict[str, Any]) -> Data:
    """`[data]` of what is scored: the run's own with what `overrides` changes; of another dataset,
    the defaults with that."""
    for key in overrides:
        flag = "--" + key.replace("_", "-")
        if section_of(key) != "data":
            raise UserError(f"{flag} is no key of [data], and only those can be given to evaluate")
        if key in OF_THE_MODEL:
            raise UserError(f"{flag} cannot be changed: {run.directory} was trained with its own")
    keys = run.config.data.model_dump(exclude_none=True)
    if "dataset" in overrides:
        # Its classes are named as the run's are, and the network reads what it has learnt to.
        same = ["case_sensitive_classes", *OF_THE_MODEL]
        if len(run.heads) > 1:  # its labels are told apart by their names
            same.append("label_key")
        keys = {key: value for key, value in keys.items() if key in same}
    if not _is_own(overrides):  # nothing is held out from it
        keys = {key: value for key, value in keys.items() if not isinstance(value, float)}
    data = load(None, keys | overrides).data
    for key in ("validation", "test"):
        if not _is_own(overrides) and isinstance(getattr(data, key), float):
            raise UserError(
                f"--{key} {getattr(data, key)}: a share is held out for training; to evaluate, "
                "give a split, a file or a folder, or leave it out"
            )
    return data


def _own(run: SavedRun, data: Data, split: str | None, bad: BadExamples, world: World) -> Chosen:
    """A split that the run was trained, validated or tested on, as the run's plan has it; a
    collective."""
    plan, split = run.plan, split or "test"
    dataset = open_dataset(run.config.model_copy(update={"data": data}), bad, world)
    if dataset.fingerprint != plan.fingerprint:
        raise UserError(
            f"the data has changed since {run.directory} was trained (fingerprint "
            f"{plan.fingerprint}, now {dataset.fingerprint}): restore the old data, or give "
            "--data to score it as another source",
            shared=True,
        )
    with world.together():
        source = _split_of(dataset, split, str(run.directory))
        if data.hold == "stream":
            check_stream(dataset)
    stream = plan.stream if data.hold == "auto" else data.hold == "stream"
    plan = plan.of_split(split, stream)
    examples = _examples(dataset, bad)
    return Chosen(_only(dataset, source), plan, split, split, plan.fingerprint, examples)


def _other(run: SavedRun, data: Data, split: str | None, bad: BadExamples, world: World) -> Chosen:
    """A split of another source, nothing held out, its classes numbered as the run's; a
    collective."""
    dataset = open_alike(data, lambda: read_dataset(data, bad), bad, world)
    if dataset.kind != run.kind:
        raise UserError(
            f"{run.directory} reads {run.kind}s, and {dataset.name} holds {dataset.kind}s",
            shared=True,
        )
    number = _examples(dataset, bad)
    with world.together(), bad.shown_before_errors():
        whole = len(dataset.splits) == 1
        split = split or ("train" if whole else "test")
        labels = _labels_of_run(run, data, dataset)
        source = _renumbered(run, dataset, labels, _split_of(dataset, split, dataset.name), bad)
    # At once: the labels of the other splits, and of what was left out, are numbered otherwise.
    names, heads = tuple(run.class_names), run.heads
    chosen = dataclasses.replace(
        dataset, class_names=names, heads=heads, train=source, validation=None, test=None
    )
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in dataset.name)
    split = "all" if whole else split
    if not whole or name in ("train", "validation", "test"):
        name = f"{name}-{split}"
    return Chosen(chosen, None, name, split, dataset.fingerprint, number)


def _examples(dataset: Dataset, bad: BadExamples) -> int:
    return sum(map(len, dataset.splits.values())) + len(bad.found)


def _only(dataset: Dataset, source: Source) -> Dataset:
    return dataclasses.replace(dataset, train=source, validation=None, test=None)


def _split_of(dataset: Dataset, split: str, what: str) -> Source:
    if split not in dataset.splits:
        raise UserError(
            f"{what} has no {split} split: choose another with --split: {', '.join(dataset.splits)}"
        )
    if not len(dataset.splits[split]):
        raise UserError(f"{what} has no good example in its {split} split")
    return dataset.splits[split]


def _labels_of_run(run: SavedRun, data: Data, dataset: Dataset) -> list[int | None]:
    """Which label of the dataset is that of each head of the run; None for one that it lacks.

    With one label each they are the same, whatever their names.
    """
    if len(run.heads) == len(dataset.heads) == 1:
        return [0]
    if len(run.heads) == 1:
        raise UserError(
            f"{run.directory} was trained on one label, and {dataset.name} is read with "
            f"{len(dataset.heads)}: give the one to score with --label-key"
        )
    names = [head.name for head in dataset.heads]
    if names == [ONLY] and data.label_key is not None:
        names = [data.label_key]
    found = [names.index(head.name) if head.name in names else None for head in run.heads]
    if all(one is None for one in found):
        learned = ",".join(head.name for head in run.heads)
        raise UserError(
            f"{dataset.name} has none of the labels that {run.directory} was trained on "
            f"({learned}): name its labels with --label-key"
        )
    return found


def _renumbered(
    run: SavedRun, dataset: Dataset, labels: list[int | None], source: Source, bad: BadExamples
) -> Source:
    """The source with the run's class ids: classes are the same if their names are; an example of
    another class is bad. `labels`: as of `_labels_of_run`."""
    given = by_head(source.labels)
    found = np.full((len(given), len(labels)), MISSING, np.int64)
    reasons: dict[int, str] = {}
    for place, (head, number) in enumerate(zip(run.heads, labels, strict=True)):
        if number is None:
            continue
        own, theirs = head.class_names, dataset.heads[number].class_names
        numbers = {name: one for one, name in enumerate(own)}
        known = np.flatnonzero(given[:, number] != MISSING)
        renumbered = np.array([numbers.get(name, MISSING) for name in theirs], np.int64)
        found[known, place] = renumbered[given[known, number]]
        of_label = f" of {head.name}" if len(labels) > 1 else ""
        for row in known[found[known, place] == MISSING].tolist():
            name = theirs[given[row, number]]
            reasons.setdefault(
                row,
                f"class '{name}'{of_label} is none of those that {run.directory} was trained on: "
                f"{suggest(name, own)}",
            )
    same: Any = source
    same = dataclasses.replace(same, labels=found if len(labels) > 1 else found[:, 0])
    left = leave_out(same, sorted(reasons.items()), bad)
    if not len(left) or (left.labels == MISSING).all():
        raise UserError(f"{dataset.name} has no example of a class that the run was trained on")
    return left


def _hold(
    run: SavedRun, choice: Chosen, data: Data, bad: BadExamples, world: World
) -> tuple[Split, Source]:
    """The one split as the network reads it, and its source without what cannot be decoded; a
    collective."""
    plan, dataset = choice.plan, choice.dataset
    if plan is not None:
        dataset, pixels = follow(plan, data, dataset, bad, world)
    else:
        with world.together():
            dataset = _fitted(run, dataset)
        plan, dataset, pixels = decide(data, dataset, bad, world, run.plan)
    check_splits(dataset)
    with world.together():
        return hold(plan, data, dataset.splits, pixels)["train"], dataset.train


def _fitted(run: SavedRun, dataset: Dataset) -> Dataset:
    """The dataset; arrays of pixels as images of files if the network reads another shape."""
    if dataset.train.content != "pixels":
        return dataset
    shape = dataset.train.read(np.arange(1)).shape[1:]
    if shape == run.image_shape:
        return dataset
    return dataclasses.replace(_only(dataset, PixelsAsFiles(dataset.train)), image_shape=shape)
