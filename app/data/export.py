"""A copy of a dataset as sharded TFRecord files, for fast streaming: a TFDS directory, which
Lockstep and TensorFlow Datasets both read."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from app.data.examples import EXAMPLES_AT_ONCE, Dataset, Source
from app.data.heads import by_head
from app.data.images import ImageSpec, decode_images
from app.data.order import Shuffled
from app.errors import UserError

SHARD_BYTES = 100_000_000
JPEG_QUALITY = 95  # of images that are resized; others keep the bytes of their files
VERSION = "1.0.0"


def export_tfrecord(dataset: Dataset, directory: Path, seed: int, spec: ImageSpec | None) -> None:
    """Write all splits to `directory`, in an order shuffled by `seed`.

    Images are copied as they are, or decoded and resized by `spec` and written as JPEG. The
    directory appears when all of it is written. Of several labels each is a feature by its name,
    -1 where an example lacks it. Raises UserError if the directory exists or the disk refuses.
    """
    check_directory(directory)
    _check_names(dataset)
    directory = directory.resolve()
    partial = directory.with_name(f".{directory.name[:200]}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        infos = [
            _write_split(dataset, split, source, partial, seed, spec)
            for split, source in dataset.splits.items()
        ]
        tfds.folder_dataset.write_metadata(
            data_dir=str(partial),
            features=_features(dataset, spec),
            split_infos=infos,
            check_data=False,
        )
        if directory.exists():
            directory.rmdir()
        os.replace(partial, directory)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"cannot write {directory}: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_names(dataset: Dataset) -> None:
    for _, class_names in dataset.heads:
        lines = [name for name in class_names if len(name.splitlines()) != 1]
        if lines:  # TFDS keeps them as the lines of a file
            raise UserError(f"the class name {lines[0]!r} is not one line, and cannot be exported")
    for name, _ in dataset.heads:
        if name == dataset.kind:
            raise UserError(
                f"the label '{name}' would have the name of the {name}s in the copy: rename the "
                "column"
            )


def check_directory(directory: Path, source: Path | None = None) -> None:
    """Raise UserError unless a copy can be written to `directory`: it is new or empty, and not
    inside `source`, the place that is copied."""
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UserError(f"{directory} exists already: give the name of a new directory")
        inside = source is not None and directory.resolve().is_relative_to(source.resolve())
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error}") from None
    if inside:
        raise UserError(f"{directory} is inside {source}: give a directory elsewhere")


def _features(dataset: Dataset, spec: ImageSpec | None) -> tfds.features.FeaturesDict:
    labels = {name: tfds.features.ClassLabel(names=names) for name, names in dataset.heads}
    if dataset.kind == "text":
        return tfds.features.FeaturesDict({"text": tfds.features.Text(), **labels})
    shape: tuple[int | None, ...] = dataset.image_shape
    if spec is not None:
        shape = (spec.size, spec.size, spec.channels)
    shape = (*shape[:2], shape[2] or 3)
    return tfds.features.FeaturesDict({"image": tfds.features.Image(shape=shape), **labels})


def _write_split(
    dataset: Dataset,
    split: str,
    source: Source,
    directory: Path,
    seed: int,
    spec: ImageSpec | None,
) -> tfds.core.SplitInfo:
    """The records of a split in files of about `SHARD_BYTES`, which get their final names when
    their number is known."""
    names = [head.name for head in dataset.heads]
    # TFDS wants an ASCII identifier in the names of files.
    name = re.sub("[^a-z0-9]+", "_", f"data_{dataset.name.partition('/')[0].lower()}").strip("_")
    name = name.removeprefix("data_") if name[5:6].isalpha() else name
    paths: list[Path] = []
    lengths: list[int] = []
    sizes: list[int] = []
    writer = None
    for content, labels in _contents(source, seed, spec):
        if writer is None or sizes[-1] >= SHARD_BYTES:
            if writer is not None:
                writer.close()
            paths.append(directory / f"{split}-{len(paths)}")
            lengths.append(0)
            sizes.append(0)
            writer = tf.io.TFRecordWriter(str(paths[-1]))
        record = _example(dataset.kind, content, dict(zip(names, labels, strict=True)))
        writer.write(record)
        lengths[-1] += 1
        sizes[-1] += len(record)
    if writer is not None:
        writer.close()
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=name, split=split, filetype_suffix="tfrecord"
    )
    for number, path in enumerate(paths):
        path.rename(str(template.sharded_filepath(shard_index=number, num_shards=len(paths))))
    return tfds.core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=sum(sizes), filename_template=template
    )


def _contents(
    source: Source, seed: int, spec: ImageSpec | None
) -> Iterator[tuple[bytes, list[int]]]:
    """(bytes of the input, its labels) of each example, in a shuffled order: the examples of a
    class may be neighbours in the source, and a stream shuffles only among files."""
    order = Shuffled(len(source), seed, epoch=0)
    for start in range(0, len(order), EXAMPLES_AT_ONCE):
        rows = order[np.arange(start, min(start + EXAMPLES_AT_ONCE, len(order)))]
        content = source.read(rows)
        if spec is not None and not isinstance(content, np.ndarray):
            images, _ = decode_images(content, spec)
            content = [
                tf.io.encode_jpeg(image, quality=JPEG_QUALITY, chroma_downsampling=False).numpy()
                for image in images
            ]
        for one, labels in zip(content, by_head(source.labels)[rows], strict=True):
            yield _as_bytes(one), labels.tolist()


def _as_bytes(content: bytes | str | np.ndarray) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode("utf-8", "replace")
    return tf.io.encode_png(content).numpy()


def _example(key: str, content: bytes, labels: Mapping[str, int]) -> bytes:
    feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))}
    for name, label in labels.items():
        feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
