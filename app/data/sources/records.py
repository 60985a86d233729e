"""Splits kept as TFRecord files: found record by record, and read in any order.

Reading a file once gives an index: where the image or text of each record begins, how long it is,
its checksum and its labels. With that a batch is read by position, and streaming gives the same
guarantee as memory: every example once, at any world size, also after a resume. The index is kept
in the cache, so that a dataset is read through once per host. Knows nothing of workers.

Format of the files: https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

import contextlib
import hashlib
import logging
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import google_crc32c
import numpy as np
import tensorflow as tf

from app.data.examples import Content
from app.errors import UserError

HEADER_BYTES, FOOTER_BYTES = 12, 4
INDEX_VERSION = 1
PARSED_AT_ONCE = 1024
COLUMNS = ("offset", "length", "crc", "labels")

_also: list[Path] = []  # where indices may be kept beside the user's cache


@dataclass(frozen=True, eq=False)
class RecordFiles:
    """A split: where in which file each input's bytes are.

    Args:
        files: the files.
        shard: the number of each input's file, int64 (n,).
        offset, length: where the input's bytes are in it, int64 (n,); crc: their CRC-32C, uint32.
        labels: class ids, int64 (n,), or (n, heads) with -1 for a missing one.
        content: "encoded" images, or "text".
    """

    files: tuple[Path, ...]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    crc: np.ndarray
    labels: np.ndarray
    content: Content = "encoded"
    in_memory: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def files_of(self) -> np.ndarray:
        return self.shard

    @property
    def size_bytes(self) -> int:
        return int(self.length.sum())

    def take(self, indices: np.ndarray) -> "RecordFiles":
        shard, offset, length, crc, labels = (
            column[indices]
            for column in (self.shard, self.offset, self.length, self.crc, self.labels)
        )
        return RecordFiles(self.files, shard, offset, length, crc, labels, self.content)

    def where(self, index: int) -> str:
        return f"{self.files[self.shard[index]]}, byte {self.offset[index]}"

    def add_to(self, digest: "hashlib.blake2b") -> None:
        for column in (self.crc, self.length, self.labels):
            digest.update(np.ascontiguousarray(column, dtype="<i8").data)

    def read(self, indices: np.ndarray) -> list[bytes]:
        """The inputs' bytes; raises UserError if a file changed or is damaged."""
        handles: dict[int, int] = {}
        try:
            return [self._read_one(int(index), handles) for index in indices]
        except OSError as error:
            raise UserError(f"{error.filename or self.files[0]} cannot be read: {error}") from None
        finally:
            for handle in handles.values():
                os.close(handle)

    def _read_one(self, index: int, handles: dict[int, int]) -> bytes:
        number = int(self.shard[index])
        if number not in handles:
            handles[number] = os.open(self.files[number], os.O_RDONLY)
        content = os.pread(handles[number], int(self.length[index]), int(self.offset[index]))
        if google_crc32c.value(content) != self.crc[index]:
            raise UserError(
                f"{self.where(index)}: the checksum is wrong: the file was changed while in use, "
                "or is damaged"
            )
        return content


def index_files(files: Sequence[Path], input_key: str, *label_keys: str) -> RecordFiles:
    """The index of whole files; each is read through once, and then found in the cache.

    `label_keys`: one, for labels (n,), or several.

    Raises UserError for a file that is missing, damaged or cut off, or lacks a feature.
    """
    parts = [_cached_index(path, input_key, label_keys) for path in files]
    shards = [np.full(len(part[-1]), number, np.int64) for number, part in enumerate(parts)]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    offset, length, crc, labels = columns
    return RecordFiles(tuple(files), np.concatenate(shards), offset, length, crc, labels)


def _cached_index(path: Path, input_key: str, label_keys: tuple[str, ...]) -> list[np.ndarray]:
    """`COLUMNS` of a file's records, from the cache if the file is unchanged."""
    try:
        about = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    facts = (INDEX_VERSION, str(path.resolve()), about.st_size, about.st_mtime_ns)
    name = hashlib.blake2b(repr((*facts, input_key, *label_keys)).encode(), digest_size=16)
    found = f"{name.hexdigest()}.npz"
    for directory in _cache_directories():
        columns = _read_index(directory / "index" / found)
        if columns is not None:
            return columns
    columns = _index_file(path, input_key, label_keys)
    _keep_index(found, columns)
    return columns


def _index_file(path: Path, input_key: str, label_keys: tuple[str, ...]) -> list[np.ndarray]:
    """`COLUMNS` of the records of one file; every checksum is verified."""
    parts = []
    for places, contents in _batches_of_records(path):
        parsed = _parse(path, contents, input_key, label_keys)
        labels = np.stack([parsed[key].numpy() for key in label_keys], axis=1)
        inputs = list(parsed[input_key].numpy())
        found = zip(places, contents, inputs, strict=True)
        offsets = [place + content.rfind(value) for place, content, value in found]
        columns = (
            np.array(offsets, np.int64),  # of equal bytes in a record any will do
            np.array([len(value) for value in inputs], np.int64),
            np.array([google_crc32c.value(value) for value in inputs], np.uint32),
            labels if len(label_keys) > 1 else labels[:, 0],
        )
        parts.append(columns)
    if not parts:
        no_labels = np.zeros((0, len(label_keys)) if len(label_keys) > 1 else 0, np.int64)
        return [*(np.zeros(0, kind) for kind in (np.int64, np.int64, np.uint32)), no_labels]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _batches_of_records(path: Path) -> Iterator[tuple[list[int], list[bytes]]]:
    """(where in the file they begin, contents) of a file's records, `PARSED_AT_ONCE` at a time."""
    places: list[int] = []
    contents: list[bytes] = []
    try:
        with path.open("rb") as file:
            while header := file.read(HEADER_BYTES):
                places.append(file.tell())
                contents.append(_record(path, places[-1] - HEADER_BYTES, header, file))
                if len(places) == PARSED_AT_ONCE:
                    yield places, contents
                    places, contents = [], []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if places:
        yield places, contents


def _record(path: Path, at: int, header: bytes, file) -> bytes:
    if len(header) == HEADER_BYTES:
        length, length_crc = struct.unpack("<QI", header)
        if _masked(header[:8]) == length_crc:
            content = file.read(length)
            footer = file.read(FOOTER_BYTES)
            if len(footer) == FOOTER_BYTES and _masked(content) == struct.unpack("<I", footer)[0]:
                return content
    raise UserError(
        f"{path}, byte {at}: damaged or cut off, or not a TFRecord file: copy or prepare it again"
    )


def _masked(content: bytes) -> int:
    """TFRecord's CRC-32C, rotated and shifted so that a checksum of checksums is safe."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _parse(path: Path, contents: list[bytes], input_key: str, label_keys: tuple[str, ...]):
    features = {key: tf.io.FixedLenFeature([], tf.int64) for key in label_keys}
    features[input_key] = tf.io.FixedLenFeature([], tf.string)
    try:
        return tf.io.parse_example(contents, features)
    except tf.errors.InvalidArgumentError as error:
        raise UserError(
            f"{path}: expected examples with the features '{input_key}' (bytes) and "
            f"{' and '.join(map(repr, label_keys))} (int64): {str(error).splitlines()[0]}"
        ) from None


def keep_also(directory: Path) -> None:
    """Have indices kept in `directory`/.lockstep where the home cannot be written, as in a
    container that is read-only but for its volumes."""
    if directory not in _also:
        _also.append(directory)


def _cache_directories() -> list[Path]:
    """Where an index may lie: $XDG_CACHE_HOME/lockstep, what `keep_also` named, the temporary
    directory."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    own = [Path(user) / "lockstep"] if os.path.isabs(user) else []  # a user may have no home
    temporary = Path(tempfile.gettempdir()) / f"lockstep-{os.getuid()}"
    # Anybody may have made a directory of that name in /tmp.
    safe = [temporary] if not temporary.exists() or temporary.stat().st_uid == os.getuid() else []
    return [*own, *(directory / ".lockstep" for directory in _also), *safe]


def _read_index(path: Path) -> list[np.ndarray] | None:
    try:
        with np.load(path) as found:
            return [found[column] for column in COLUMNS]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # not there, or not whole


def _keep_index(name: str, columns: list[np.ndarray]) -> None:
    """Write an index to the first place that takes it, so that it is there whole or not at all."""
    failures = []
    for directory in _cache_directories():
        partial = None
        try:
            (directory / "index").mkdir(parents=True, exist_ok=True)
            # Hosts that share a file system may have processes of one number: a random name.
            handle, partial = tempfile.mkstemp(".partial", f".{name}.", directory / "index")
            with open(handle, "wb") as file:
                np.savez(file, **dict(zip(COLUMNS, columns, strict=True)))  # type: ignore[arg-type]
            os.replace(partial, directory / "index" / name)
            return
        except OSError as error:
            failures.append(f"{directory}: {error.strerror}")
            if partial is not None:
                with contextlib.suppress(OSError):
                    os.unlink(partial)
    logging.getLogger(__name__).warning(  # which is shown once, see app/monitor/logs.py
        "the index of TFRecord files cannot be kept, so every rank reads every file through at "
        "every start: set XDG_CACHE_HOME to a directory that can be written (%s)",
        "; ".join(failures),
    )
