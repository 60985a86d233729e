"""From what the user names to a `Dataset`: embedded sets, CSV files, TensorFlow Datasets."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.config import Data
from app.data import embedded
from app.data.examples import Dataset, Examples, stratified_split
from app.data.tables import read_csv
from app.errors import UserError

EMBEDDED = {"digits": embedded.digits, "pydocs": embedded.pydocs}


def prepare_dataset(data: Data) -> None:
    """Download and prepare a TFDS dataset that is not there yet; call it once per host."""
    if data.dataset not in EMBEDDED and not data.dataset.endswith(".csv"):
        from app.data.tfds_source import prepare

        prepare(data, tuple(EMBEDDED))


def load_dataset(data: Data, seed: int) -> Dataset:
    """The dataset that `[data]` names, with a validation split held out if one is asked for.

    Raises UserError that says what was given and what would do.
    """
    if data.dataset in EMBEDDED:
        try:
            dataset = EMBEDDED[data.dataset]()
        except ValueError as error:
            raise UserError(str(error)) from None
        if data.test is not None or isinstance(data.validation, str):
            raise UserError(
                f"{data.dataset} has a fixed test split: leave out test, and give a "
                "share as validation"
            )
    elif data.dataset.endswith(".csv"):
        dataset = _load_csv(data, seed)
    else:
        from app.data.tfds_source import load_tfds

        dataset = load_tfds(data)
    dataset = _with_held_out(dataset, data, seed)
    present = np.unique(dataset.train.labels)
    if len(present) < 2:
        raise UserError(
            f"{data.dataset}: all {len(dataset.train)} training examples have the label "
            f"'{dataset.class_names[present[0]]}': there is nothing to learn"
        )
    return dataset


def _with_held_out(dataset: Dataset, data: Data, seed: int) -> Dataset:
    """Replace a share that was asked for by examples held out from the training split."""
    if isinstance(data.validation, str) or data.validation == 0:
        return dataset
    train, held_out = hold_out(dataset.train, data.validation, seed, "validation")
    return dataclasses.replace(dataset, train=train, validation=held_out)


def hold_out(examples: Examples, share: float, seed: int, key: str) -> tuple[Examples, Examples]:
    """A seeded, stratified split into (kept, held out).

    Raises UserError if `share` is not between 0 and 1, or too small to hold out an example.
    """
    if not 0 < share < 1:
        raise UserError(f"{key} = {share}: expected a share between 0 and 1, or a split or file")
    kept, held_out = stratified_split(examples.labels, share, seed)
    if not len(held_out):
        raise UserError(f"{key} = {share} of {len(examples)} examples is none: give a larger share")
    return examples.take(kept), examples.take(held_out)


def _load_csv(data: Data, seed: int) -> Dataset:
    folder = data.data_dir or Path()
    path = folder / data.dataset
    texts, names = read_csv(path, data.input_key, data.label_key)
    classes = tuple(sorted(set(names)))
    train = _examples(path, texts, names, classes)
    if isinstance(data.test, str):
        test = _read_split(folder / data.test, data, classes)
    else:
        train, test = hold_out(train, 0.1 if data.test is None else data.test, seed + 1, "test")
    validation = None
    if isinstance(data.validation, str):
        validation = _read_split(folder / data.validation, data, classes)
    return Dataset(Path(data.dataset).stem, "text", classes, train, validation, test)


def _read_split(path: Path, data: Data, classes: Sequence[str]) -> Examples:
    return _examples(path, *read_csv(path, data.input_key, data.label_key), classes)


def _examples(path: Path, texts: list[str], names: list[str], classes: Sequence[str]) -> Examples:
    number = {name: index for index, name in enumerate(classes)}
    for row, name in enumerate(names, start=1):
        if name not in number:
            raise UserError(
                f"{path}, data row {row}: label '{name}' does not occur in the training file, so "
                "the model cannot learn it: add training rows, or remove the row"
            )
    labels = np.array([number[name] for name in names], dtype=np.int64)
    return Examples(np.array(texts, dtype=object), labels)
