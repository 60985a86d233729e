"""Any TensorFlow Datasets dataset that has an image or a text and a class label."""

from typing import Any, Literal

import numpy as np
import psutil
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import features as tfds_features

from app.config import Data
from app.data.examples import Dataset, Examples
from app.errors import UserError, suggest

MEMORY_SHARE = 0.5


def prepare(data: Data, other_names: tuple[str, ...]) -> None:
    """Download and prepare the dataset unless it is there.

    Raises UserError for an unknown name or a failed download.
    """
    try:
        builder = tfds.builder(data.dataset, data_dir=data.data_dir)
    except tfds.core.DatasetNotFoundError:
        found = [path.parent.parent.name for path in _data_dir(data).glob("*/*/dataset_info.json")]
        raise UserError(
            f"unknown dataset '{data.dataset}': "
            f"{_nearest(data.dataset, {*other_names, *found}, tfds.list_builders())}"
        ) from None
    except ValueError as error:
        raise UserError(f"dataset '{data.dataset}': {str(error).splitlines()[0]}") from None
    if builder.info.splits:
        return
    try:
        _data_dir(data).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--data-dir {data.data_dir} cannot be written: {error}") from None
    try:
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
    return f"{hint}Here: {', '.join(sorted(near))}; or a .csv file; or any of TFDS's {len(others)}"


def _data_dir(data: Data) -> Any:
    return tfds.core.Path(data.data_dir or tfds.core.constants.DATA_DIR)


def load_tfds(data: Data) -> Dataset:
    """The splits that `[data]` names, decoded and resized, in memory."""
    builder = tfds.builder(data.dataset, data_dir=data.data_dir)
    input_key, label_key = find_keys(builder.info, data.input_key, data.label_key)
    feature = builder.info.features[input_key]
    if isinstance(feature, tfds_features.Image) and feature.np_dtype != np.uint8:
        raise UserError(
            f"{data.dataset}: images are {feature.np_dtype}, and Lockstep reads uint8 only"
        )
    kind: Literal["image", "text"] = "image" if isinstance(feature, tfds_features.Image) else "text"
    if isinstance(data.test, float):
        raise UserError(f"test = {data.test}: name a TFDS split, e.g. --test 'train[90%:]'")
    named = {"train": data.train, "test": data.test or "test"}
    if isinstance(data.validation, str):
        named["validation"] = data.validation
    splits = {}
    for role, split in named.items():
        source = _open(builder, split, role)
        if kind == "image":
            inputs, labels = _images(source, feature, input_key, label_key, data)
        else:
            inputs, labels = _texts(source, input_key, label_key)
        if (labels < 0).any():
            raise UserError(f"{data.dataset}, split '{split}' has examples without a label (-1)")
        splits[role] = Examples(inputs, labels)
    names = tuple(builder.info.features[label_key].names)
    return Dataset(
        builder.info.full_name,
        kind,
        names,
        splits["train"],
        splits.get("validation"),
        splits["test"],
    )


def find_keys(info: tfds.core.DatasetInfo, input_key: str | None, label_key: str | None):
    """The names of the input feature and of the class label.

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
    for key, valid, flag in (
        (input_key, inputs, "--input-key"),
        (label_key, found["class label"], "--label-key"),
    ):
        if key is not None and key not in valid:
            raise UserError(f"{info.name}: {flag} {key}: {suggest(key, valid)}")
    supervised: tuple[Any, ...] = info.supervised_keys or ()
    if len(supervised) == 2 and supervised[0] in inputs:
        input_key = input_key or supervised[0]
    if len(supervised) == 2 and supervised[1] in found["class label"]:
        label_key = label_key or supervised[1]
    candidates = found["image"] or found["text"]
    for key, choices, what, flag in (
        (input_key, candidates, "image or text", "--input-key"),
        (label_key, found["class label"], "class label", "--label-key"),
    ):
        if key is None and len(choices) != 1:
            raise UserError(
                f"{info.name} has {len(choices) or 'no'} {what} features "
                f"({', '.join(choices) or 'its features: ' + ', '.join(features)})"
                + (f": choose one with {flag}" if choices else ": Lockstep needs one")
            )
    return input_key or candidates[0], label_key or found["class label"][0]


def _open(builder: tfds.core.DatasetBuilder, split: str, role: str) -> tf.data.Dataset:
    read = tfds.ReadConfig(interleave_cycle_length=1, add_tfds_id=False)
    try:
        return builder.as_dataset(split=split, shuffle_files=False, read_config=read)
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{builder.name}: no split '{split}' for {role} ({reason}): it has "
            f"{', '.join(builder.info.splits)}; name one with --{role}"
        ) from None


def _images(source, feature, input_key: str, label_key: str, data: Data):
    size = data.image_size
    if size is None and None in feature.shape:
        raise UserError(
            f"{data.dataset}: images have mixed sizes {feature.shape}: give --image-size, e.g. 224"
        )
    height, width = (size, size) if size else feature.shape[:2]
    needed = len(source) * height * width * (feature.shape[2] or 3)
    if needed > MEMORY_SHARE * psutil.virtual_memory().available:
        raise UserError(
            f"{data.dataset}: {len(source)} images of {height}x{width} need {needed / 1e9:.1f} GB "
            "of memory per rank, which is not there: give a smaller --image-size or a part of the "
            "split, e.g. --train 'train[:10%]'"
        )

    def fit(example):
        image = example[input_key]
        if size:
            image = tf.image.resize(image, (size, size), antialias=True)
            image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        return image, example[label_key]

    return _collect(source.map(fit, num_parallel_calls=tf.data.AUTOTUNE))


def _texts(source, input_key: str, label_key: str):
    inputs, labels = _collect(source.map(lambda example: (example[input_key], example[label_key])))
    texts = [text.decode("utf-8", "replace") for text in inputs]
    return np.array(texts, dtype=object), labels


def _collect(source: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = source.batch(len(source)).get_single_element()
    return inputs.numpy(), labels.numpy().astype(np.int64)
