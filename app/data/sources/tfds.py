"""Any TensorFlow Datasets dataset that has an image or a text and one or several class labels."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import features as tfds_features

from app.config import Data
from app.data.bad import BadExamples
from app.data.examples import Dataset, Source
from app.data.heads import MISSING, Head, by_head
from app.data.plan import leave_out
from app.data.sources.classes import clean_class_name, merges
from app.data.sources.records import RecordFiles, index_files
from app.data.sources.tables import input_columns
from app.errors import UserError, suggest
from app.pulse import PULSE

PREPARED = "dataset_info.json"


def is_tfds_directory(place: Path) -> bool:
    """True for a prepared dataset: the folder of a version, or of a name that holds versions."""
    return (place / PREPARED).is_file() or any(place.glob(f"*/{PREPARED}"))


def prepare(data: Data, other_names: tuple[str, ...]) -> None:
    """Download and prepare the dataset unless it is there, and index its files.

    TFDS prepares in a folder of another name, verifies the checksums of what it downloads, and
    renames at the end, so that half a dataset is never taken for a whole one. Raises UserError
    for an unknown name or a failed download.
    """
    builder = _builder(data, other_names)
    if not builder.info.splits:
        _download(builder, data)
    load_tfds(data, other_names, BadExamples("skip"))  # what is bad is said when it is loaded


def _builder(data: Data, other_names: tuple[str, ...]) -> tfds.core.DatasetBuilder:
    place = (data.data_dir or Path()) / data.dataset
    if place.is_file():
        raise UserError(
            f"{place} is not a file type that Lockstep reads: give a table (.csv, .tsv, .jsonl, "
            ".json, .parquet), or a folder of images by class"
        )
    if "/" in data.dataset and not place.exists() and not _is_name(data.dataset):
        raise UserError(f"no file or folder '{place}', and no TFDS dataset of that name")
    try:
        if is_tfds_directory(place):
            return tfds.builder_from_directory(str(_newest_version(place)))
        return tfds.builder(data.dataset, data_dir=data.data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        unknown = isinstance(error, tfds.core.DatasetNotFoundError)
        if not unknown and "Parsing builder name" not in str(error):
            raise UserError(f"dataset '{data.dataset}': {str(error).splitlines()[0]}") from None
        found = [path.parent.parent.name for path in _data_dir(data).glob(f"*/*/{PREPARED}")]
        raise UserError(
            f"unknown dataset '{data.dataset}': "
            f"{_nearest(data.dataset, {*other_names, *found}, _tfds_names())}"
        ) from None
    except Exception as error:  # a damaged dataset_info.json or features.json fails in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"dataset '{data.dataset}': {reason}") from None


def _tfds_names() -> list[str]:
    """TFDS's own datasets. Those of its community it would look up on the internet, and write the
    list to the home directory, which a container may not have."""
    return tfds.list_builders(with_community_datasets=False)


def _is_name(name: str) -> bool:
    """Whether this can be NAME/CONFIG or NAME/CONFIG/VERSION of a dataset that TFDS knows."""
    return name.partition("/")[0] in _tfds_names()


def _newest_version(place: Path) -> Path:
    if (place / PREPARED).is_file():
        return place

    def version(folder: Path) -> list[int]:
        return [int(part) if part.isdigit() else -1 for part in folder.name.split(".")]

    return max((path.parent for path in place.glob(f"*/{PREPARED}")), key=version)


def _download(builder: tfds.core.DatasetBuilder, data: Data) -> None:
    try:
        _data_dir(data).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--data-dir {data.data_dir} cannot be written: {error}") from None
    try:
        with PULSE.during("download", math.inf):
            builder.download_and_prepare()
    except Exception as error:  # downloads fail in every way there is
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{data.dataset} is not prepared in {builder.data_dir}, and preparing it failed: "
            f"{reason}. Check the network and the disk, or prepare it elsewhere and point "
            "--data-dir at it"
        ) from None


def _nearest(given: str, near: set[str], others: list[str]) -> str:
    hint = suggest(given, [*near, *others]).partition("Valid: ")[0]
    return (
        f"{hint}Here: {', '.join(sorted(near))}; or a file, a folder of images by class, or any of "
        f"TFDS's {len(others)}"
    )


def _data_dir(data: Data) -> Any:
    return tfds.core.Path(data.data_dir or tfds.core.constants.DATA_DIR)


def load_tfds(data: Data, other_names: tuple[str, ...], bad: BadExamples) -> Dataset:
    """The splits that `[data]` names; those that the dataset has under the usual names if not."""
    builder = _builder(data, other_names)
    input_key, label_keys = find_keys(builder.info, data.input_key, data.label_key)
    feature = builder.info.features[input_key]
    is_image = isinstance(feature, tfds_features.Image)
    if is_image and feature.np_dtype != np.uint8:
        raise UserError(
            f"{data.dataset}: images are {feature.np_dtype}, and Lockstep reads uint8 only"
        )
    splits = {}
    for role, wanted in (
        ("train", data.train),
        ("validation", data.validation),
        ("test", data.test),
    ):
        split = wanted if isinstance(wanted, str) else role
        if isinstance(wanted, str) or (wanted is None and split in builder.info.splits):
            splits[role] = _records(builder, split, role, input_key, label_keys)
            if len(label_keys) == 1 and (splits[role].labels < 0).any():
                raise UserError(
                    f"{data.dataset}, split '{split}' has examples without a label (-1)"
                )
    _check_disjoint(data, splits)
    cleaned = []
    for key in label_keys:
        source = data.dataset if len(label_keys) == 1 else f"{data.dataset}, '{key}'"
        cleaned.append(_clean_names(builder.info.features[key].names, source, bad))
    held = {
        role: _renumbered(one, [number_of for _, number_of in cleaned], is_image, label_keys, bad)
        for role, one in splits.items()
    }
    heads = tuple(Head(key, names) for key, (names, _) in zip(label_keys, cleaned, strict=True))
    return Dataset(
        builder.info.full_name,
        "image" if is_image else "text",
        heads[0].class_names,
        held["train"],
        held.get("validation"),
        held.get("test"),
        image_shape=tuple(feature.shape) if is_image else (None, None, None),
        heads=heads if len(heads) > 1 else (),
    )


def _renumbered(
    records: RecordFiles,
    number_of: Sequence[np.ndarray],
    is_image: bool,
    label_keys: Sequence[str],
    bad: BadExamples,
) -> Source:
    """The records with the new numbers of their classes; one of several labels may be missing, and
    an example that lacks all is bad.

    `number_of`: for each label, the new number of each old one.
    """
    labels = np.stack(
        [
            np.append(numbers, MISSING)[np.maximum(old, MISSING)]  # the last is at -1
            for numbers, old in zip(number_of, by_head(records.labels).T, strict=True)
        ],
        axis=1,
    )
    without = np.flatnonzero((labels == MISSING).all(axis=1)).tolist()
    labels = labels if len(number_of) > 1 else labels[:, 0]
    renumbered = dataclasses.replace(
        records, labels=labels, content="encoded" if is_image else "text"
    )
    reason = f"without a label (-1): none of {', '.join(label_keys)}"
    return leave_out(renumbered, [(row, reason) for row in without], bad)


def _clean_names(
    given: Sequence[str], source: str, bad: BadExamples
) -> tuple[tuple[str, ...], np.ndarray]:
    """The class names in the order of the dataset, and the new number of each old one, int64."""
    spellings: dict[str, list[str]] = {}
    for name in given:
        spellings.setdefault(clean_class_name(name), []).append(name)
    for note in merges(spellings, source):
        bad.note(note)
    numbers = {name: number for number, name in enumerate(spellings)}
    return tuple(spellings), np.array([numbers[clean_class_name(name)] for name in given], np.int64)


def _check_disjoint(data: Data, splits: dict[str, RecordFiles]) -> None:
    """Raise UserError if an example to evaluate on is also one to train on."""
    files = {
        path: number for number, path in enumerate({p for s in splits.values() for p in s.files})
    }
    places = {
        role: np.array([files[path] for path in split.files])[split.shard] * 2**40 + split.offset
        for role, split in splits.items()
    }
    for role in splits.keys() - {"train"}:
        common = len(np.intersect1d(places["train"], places[role]))
        if common:
            raise UserError(
                f"{data.dataset}: {common} examples are both in the training split '{data.train}' "
                f"and in the {role} split: name others with --train and --{role}"
            )


def _records(
    builder: tfds.core.DatasetBuilder,
    split: str,
    role: str,
    input_key: str,
    label_keys: Sequence[str],
) -> RecordFiles:
    """The records of a split or of a part of one, such as `train[:90%]`."""
    try:
        pieces = builder.info.splits[split].file_instructions
        if not pieces:
            raise ValueError("it is empty")
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{builder.name}: no split '{split}' for {role} ({str(error).splitlines()[0]}): it has "
            f"{', '.join(builder.info.splits)}; name one with --{role}"
        ) from None
    if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"{builder.name} is prepared as {builder.info.file_format}, and Lockstep reads "
            "TFRecord files: convert it with 'tfds convert_format --out_file_format=tfrecord'"
        )
    # A piece is part of a file: `skip` records are left out, then `take` are taken (-1: all).
    paths = [Path(piece.filename) for piece in pieces]
    whole = index_files(list(dict.fromkeys(paths)), input_key, *label_keys)
    rows = []
    for path, piece in zip(paths, pieces, strict=True):
        of_file = np.flatnonzero(whole.shard == whole.files.index(path))[piece.skip :]
        rows.append(of_file if piece.take < 0 else of_file[: piece.take])
    return whole.take(np.concatenate(rows))


def find_keys(
    info: tfds.core.DatasetInfo, input_key: str | None, label_key: str | None
) -> tuple[str, tuple[str, ...]]:
    """The names of the input feature and of the class label, or of the several that are given.

    `supervised_keys` if it names them, else the only image, else the only text, and the only
    class label; other features, such as an id, are ignored. Raises UserError for anything else.
    """
    features = dict(info.features.items())
    kinds = {
        "image": tfds_features.Image,
        "text": tfds_features.Text,
        "class label": tfds_features.ClassLabel,
    }
    found = {
        kind: sorted(key for key, feature in features.items() if isinstance(feature, cls))
        for kind, cls in kinds.items()
    }
    inputs = [*found["image"], *found["text"]]
    label_keys = () if label_key is None else input_columns(label_key, features)
    given = [(one, found["class label"], "--label-key") for one in label_keys]
    for key, valid, flag in ((input_key, inputs, "--input-key"), *given):
        if key is not None and key not in valid:
            raise UserError(f"{info.name}: {flag} {key}: {suggest(key, valid)}")
    if len(set(label_keys)) < len(label_keys):
        raise UserError(f"{info.name}: --label-key {label_key} names a feature twice")
    supervised: tuple[Any, ...] = info.supervised_keys or ()
    if len(supervised) == 2 and supervised[0] in inputs:
        input_key = input_key or supervised[0]
    if len(supervised) == 2 and supervised[1] in found["class label"]:
        label_keys = label_keys or (supervised[1],)
    return (
        input_key
        or _only(info, found["image"] or found["text"], "image or text", "--input-key", features),
        label_keys or (_only(info, found["class label"], "class label", "--label-key", features),),
    )


def _only(
    info: tfds.core.DatasetInfo, choices: list[str], what: str, flag: str, features: Iterable[str]
) -> str:
    if len(choices) != 1:
        raise UserError(
            f"{info.name} has {len(choices) or 'no'} {what} features "
            f"({', '.join(choices) or 'its features: ' + ', '.join(features)})"
            + (f": choose one with {flag}" if choices else ": Lockstep needs one")
        )
    return choices[0]
