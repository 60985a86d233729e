"""TensorBoard's event files, read and cut without TensorFlow, whose import takes seconds.

A file is a sequence of TFRecords: the length (uint64), a checksum of 4 bytes, an `Event`, another
checksum of 4 bytes.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HEADER_BYTES, FOOTER_BYTES = 12, 4
PATTERN = "events.out.tfevents.*"


def events(path: Path) -> Iterator[Any]:
    """The events of a file, up to the first incomplete one, which may still be being written."""
    return (event for event, _ in _records(path))


def event_files(directory: Path) -> list[Path]:
    """The event files of one run in TensorBoard's sense, oldest first: their names hold the second
    in which they were opened, and a count within the process."""
    return sorted(directory.glob(PATTERN), key=_numbers)


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def keep_only(directory: Path, stays: Callable[[str, int], bool]) -> None:
    """Rewrite the event files in `directory`, keeping the values for which `stays(tag, step)` is
    true, and nothing that an interrupted process left half-written.

    A resumed run trains some steps again, and a curve should have each of them once. TensorBoard
    2.20 does not see to that: neither of its loaders heeds a SessionLog START event. By default a
    value replaces those of its own tag at the same and later steps, so other steps and tags of the
    abandoned part stay; with --load_fast=false everything stays, and curves run back and forth.
    """
    for path in event_files(directory):
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            for event, record in _records(path):
                if all(stays(value.tag, event.step) for value in event.summary.value):
                    file.write(record)
        os.replace(partial, path)


def _records(path: Path) -> Iterator[tuple[Any, bytes]]:
    """(event, its bytes in the file)."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    left = path.stat().st_size
    with path.open("rb") as file:
        while len(header := file.read(HEADER_BYTES)) == HEADER_BYTES:
            (length,) = struct.unpack("<Q", header[:8])
            left -= HEADER_BYTES + length + FOOTER_BYTES
            if left < 0:
                return
            rest = file.read(length + FOOTER_BYTES)
            try:
                yield Event.FromString(rest[:length]), header + rest
            except DecodeError:
                return
