"""From what the user names to a `Dataset`: the embedded and synthetic ones, tables, folders of
images, TensorFlow Datasets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.config import Data
from app.data.bad import BadExamples
from app.data.examples import Dataset, Examples, Source, stratified_split
from app.data.heads import MISSING, Head, by_head, strata
from app.data.sources import embedded, synthetic
from app.data.sources.classes import check_class_names, sort_class_names
from app.data.sources.folders import find_splits, list_files
from app.data.sources.table_files import table_name, table_suffix
from app.data.sources.table_rows import Reading
from app.data.sources.tables import Table, input_columns, read_table
from app.errors import UserError

EMBEDDED = {"digits": embedded.digits, "pydocs": embedded.pydocs}
LABELS = ("pydocs",)  # of these, those that have labels to choose from
NAMES = (*EMBEDDED, synthetic.IMAGE, synthetic.TEXT)
MOST_REASONS = 5  # of what was left out, in a message about what is missing
HELD_OUT = 0.1  # of the training examples, if the dataset does not have the split


def prepare_dataset(data: Data) -> None:
    """Download, prepare and index a TFDS dataset; call it once per host.

    Raises UserError for an unknown name or a failed download.
    """
    if _reader(data) is _load_tfds:
        from app.data.sources.tfds import prepare

        prepare(data, NAMES)


def load_dataset(data: Data, seed: int, bad: BadExamples) -> Dataset:
    """The dataset that `[data]` names, with the splits held out that are asked for.

    Images are not decoded yet. Raises UserError that says what was given and what is expected.
    """
    dataset = read_dataset(data, bad)
    if not len(dataset.train):
        reason = f": {bad.found[0].where}: {bad.found[0].reason}" if bad.found else ""
        raise UserError(f"{data.dataset} has no good example to train on{reason}")
    own = {"validation": dataset.validation, "test": dataset.test}
    train = dataset.train
    for split, wanted, split_seed in (
        ("test", data.test, seed + 1),
        ("validation", data.validation, seed),
    ):
        share = HELD_OUT if wanted is None and own[split] is None else wanted
        if isinstance(share, float) and not (split == "validation" and share == 0):
            train, own[split] = hold_out(train, share, split_seed, split)
        elif isinstance(share, float):
            own[split] = None
    dataset = dataset.with_splits({"train": train, **own})
    _check_classes(data, dataset, bad)
    return dataset


def read_dataset(data: Data, bad: BadExamples) -> Dataset:
    """The dataset that `[data]` names, with the splits that it comes with; nothing is held out."""
    reader = _reader(data)
    _refuse_unused(data, reader)
    return reader(data, bad)


def is_local(data: Data) -> bool:
    """Whether the dataset is a table or a folder of the user's own."""
    return _reader(data) in (_load_table, _load_folder)


def _refuse_unused(data: Data, reader: Any) -> None:
    """Raise UserError for a key that has no effect on this kind of dataset."""
    if data.train != "train" and reader is not _load_tfds:
        raise UserError(
            f"train = '{data.train}' names a TFDS split, but {data.dataset} is not from TFDS"
        )
    for key in ("input_key", "label_key"):
        value = getattr(data, key)
        chooses = key == "label_key" and data.dataset in LABELS
        if value is not None and reader not in (_load_tfds, _load_table) and not chooses:
            what = "columns" if "," in value else "a column"
            raise UserError(f"{key} = '{value}' names {what}, and {data.dataset} has no columns")
    for key in ("header", "separator", "encoding"):
        value = getattr(data, key)
        if value != Data.model_fields[key].default and reader is not _load_table:
            raise UserError(f"{key} = {value!r} is for tables, but {data.dataset} is not one")


def _check_classes(data: Data, dataset: Dataset, bad: BadExamples) -> None:
    """Raise UserError for a dataset, or a label of several, with nothing to learn from."""
    of_heads = by_head(dataset.train.labels).T
    for (name, class_names), labels in zip(dataset.heads, of_heads, strict=True):
        present = np.unique(labels[labels != MISSING])
        if len(present) > 1:
            continue
        if len(dataset.heads) == 1:
            raise UserError(
                f"{data.dataset}: all {len(labels)} training examples have the label "
                f"'{class_names[present[0]]}': there is nothing to learn{_left_out(bad)}"
            )
        has = f"only '{class_names[present[0]]}'" if len(present) else "no label at all"
        raise UserError(
            f"{data.dataset}: in the training examples '{name}' has {has}: there is nothing to "
            f"learn, so leave it out of --label-key{_left_out(bad)}"
        )


def _left_out(bad: BadExamples) -> str:
    """What was skipped, for the end of a message about what is missing; bad examples are listed
    before it (`BadExamples.shown_before_errors`)."""
    lines = bad.notes[:MOST_REASONS]
    return f". Left out: {'; '.join(lines)}" if lines else ""


def hold_out(source: Source, share: float, seed: int, key: str) -> tuple[Source, Source]:
    """A seeded, stratified split into (kept, held out).

    Raises UserError if `share` is not between 0 and 1, or too small to hold out an example.
    """
    if not 0 < share < 1:
        raise UserError(f"{key} = {share}: expected a share between 0 and 1, or a split or file")
    kept, held_out = stratified_split(strata(source.labels), share, seed)
    if not len(held_out):
        raise UserError(
            f"{key} = {share} of {len(source)} examples holds out none: give a larger share "
            f"with --{key}, or more examples"
        )
    return source.take(kept), source.take(held_out)


def _reader(data: Data) -> Any:
    """The function that reads what `data.dataset` names."""
    place = (data.data_dir or Path()) / data.dataset
    if not data.dataset.strip():
        raise UserError("dataset is empty: give a name, a file or a folder")
    if data.dataset in EMBEDDED:
        return _load_embedded
    if synthetic.is_synthetic(data.dataset):
        return _load_synthetic
    if table_suffix(place):
        return _load_table
    try:
        is_folder = place.is_dir()
    except OSError as error:
        raise UserError(f"dataset '{data.dataset}': {error.strerror}") from None
    if is_folder:
        from app.data.sources.tfds import is_tfds_directory

        return _load_tfds if is_tfds_directory(place) else _load_folder
    return _load_tfds  # which lists the valid names if this is not one of them


def _load_tfds(data: Data, bad: BadExamples) -> Dataset:
    from app.data.sources.tfds import load_tfds  # TFDS takes a second to import

    return load_tfds(data, NAMES, bad)


def _load_embedded(data: Data, bad: BadExamples) -> Dataset:
    _refuse_splits(data)
    try:
        if data.label_key is None:
            return EMBEDDED[data.dataset]()
        return embedded.pydocs(labels=input_columns(data.label_key, ()))
    except ValueError as error:
        raise UserError(str(error)) from None


def _load_synthetic(data: Data, bad: BadExamples) -> Dataset:
    _refuse_splits(data)
    if data.image_size is not None:
        raise UserError(f"image_size: give {data.dataset.partition(':')[0]} its size as :size=N")
    return synthetic.synthetic(data.dataset)


def _refuse_splits(data: Data) -> None:
    if data.test is not None or isinstance(data.validation, str):
        raise UserError(
            f"{data.dataset} has a fixed test split: leave out test, and give a share as validation"
        )


def _load_folder(data: Data, bad: BadExamples) -> Dataset:
    root = (data.data_dir or Path()) / data.dataset
    found = find_splits(root, bad)
    if not data.case_sensitive_classes:
        check_class_names(found["train"].class_names, str(root))
    splits = {"train": found["train"].files}
    for split, wanted in (("validation", data.validation), ("test", data.test)):
        name = wanted if isinstance(wanted, str) else split
        if isinstance(wanted, str) and name not in found:
            splits_there = ", ".join(found) + _left_out(bad)
            raise UserError(f"{root} has no split '{name}' for {split}: it has {splits_there}")
        if name in found and not isinstance(wanted, float):
            splits[split] = found[name].files
    return Dataset(
        root.resolve().name,
        "image",
        found["train"].class_names,
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
    )


def _load_table(data: Data, bad: BadExamples) -> Dataset:
    """A table for training and, if they are named, others for validation and test."""
    folder = data.data_dir or Path()
    paths = {"train": folder / data.dataset}
    for split, wanted in (("validation", data.validation), ("test", data.test)):
        if isinstance(wanted, str):
            paths[split] = folder / wanted
    reading = Reading(data.encoding, data.header, data.separator)
    keys = data.input_key, data.label_key
    train = read_table(paths["train"], *keys, bad, reading)
    numbers = [column.numbers for column in train.labels]
    names = [sort_class_names(name for name in one.names if name) for one in train.labels]
    splits: dict[str, Any] = {}
    notes = []
    for split, path in paths.items():
        table = train
        if split != "train":
            table = read_table(path, *keys, bad, reading, numbers)
        if not data.case_sensitive_classes:
            _check_case(table)
        notes.append(f"{path.name}: {table.about}")
        if table.kind != train.kind:
            raise UserError(f"{table.path} holds {table.kind}s, but {train.path} {train.kind}s")
        rows, labels = _label_ids(table, names, bad)
        wheres = [table.where(row) for row in rows]
        inputs = [table.inputs[row] for row in rows]
        if table.kind == "image":
            root = data.data_dir or table.path.parent
            splits[split] = list_files(table.path, root, inputs, labels, wheres, bad)
        else:
            texts = np.array([*inputs, None], dtype=object)[:-1]
            splits[split] = Examples(texts, labels, np.array(wheres, dtype=object))
    heads = tuple(Head(one.key, of) for one, of in zip(train.labels, names, strict=True))
    return Dataset(
        table_name(paths["train"]),
        train.kind,
        names[0],
        **splits,
        notes=tuple(notes),
        heads=heads if len(heads) > 1 else (),
    )


def _check_case(table: Table) -> None:
    """Refuse names of one column that differ only by case."""
    for column in table.labels:
        lines: dict[str, int] = {}
        for name, line in zip(column.names, table.lines, strict=True):
            if name is not None:
                lines.setdefault(name, line)
        where = "" if len(table.labels) == 1 else f", column '{column.key}'"
        check_class_names(lines, f"{table.path}{where}", lines)


def _label_ids(
    table: Table, names: Sequence[Sequence[str]], bad: BadExamples
) -> tuple[list[int], np.ndarray]:
    """The rows all of whose labels occur in training, and their class ids, int64 (rows,) or
    (rows, heads); the others are bad.

    A row with a label that training lacks is bad as a whole, also where its other labels are known:
    dropping that label would make a wrong answer in it count as none at all.
    """
    ids = np.full((len(table.inputs), len(names)), MISSING, np.int64)
    unknown: dict[int, str] = {}
    for head, (column, of_training) in enumerate(zip(table.labels, names, strict=True)):
        number = {name: index for index, name in enumerate(of_training)}
        where = "" if len(names) == 1 else f" of column '{column.key}'"
        for row, name in enumerate(column.names):
            if name in number:
                ids[row, head] = number[name]
            elif name is not None:
                reason = f"label '{name}'{where} does not occur in the training file, so the model "
                unknown.setdefault(row, reason + "cannot learn it")
    for row in sorted(unknown):
        bad.add(table.where(row), unknown[row])
    rows = [row for row in range(len(ids)) if row not in unknown]
    return rows, ids[rows] if len(names) > 1 else ids[rows, 0]
