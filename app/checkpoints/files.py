"""The files of one checkpoint, each with its checksum. Knows plain arrays and JSON.

state.safetensors   every saved variable, keyed by its path
state.json          where the run is, in which world, and the sums behind the metrics of the
                    epoch so far
score.json          how its model did on the validation split, once that is known
SHA256SUMS          the checksums of the others: `sha256sum -c SHA256SUMS`
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from app.checkpoints.snapshot import FORMAT, Snapshot
from app.errors import UserError
from app.rundir.contents import flush_directory, write_file
from app.rundir.files import STATE
from app.state import POSITION

ARRAYS, SCORE, SUMS = "state.safetensors", "score.json", "SHA256SUMS"
CHUNK = 1 << 22
# Names of https://huggingface.co/docs/safetensors#format
DTYPES = {
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    "bfloat16": "BF16",
    "bool": "BOOL",
}


class Damaged(Exception):  # noqa: N818 (what it is, not what went wrong with us)
    """A checkpoint that cannot be read, with the reason."""


class Score(NamedTuple):
    """Of the validation split."""

    loss: float
    accuracy: float


class Content(NamedTuple):
    """What a checkpoint holds: arrays by path, what `state.json` says, the arrays' SHA-256."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    sha256: str


def write_files(directory: Path, snapshot: Snapshot) -> None:
    """Write a snapshot into an empty directory, down to the disk; OSError if that fails."""
    sums = {
        ARRAYS: _write(directory / ARRAYS, _safetensors(snapshot.arrays)),
        STATE: _write(directory / STATE, [snapshot.about]),
    }
    _write(directory / SUMS, [_to_text(sums)])
    flush_directory(directory)


def write_score(directory: Path, score: Score) -> None:
    """Put a score into a checkpoint; OSError if that fails.

    It counts once its checksum is there, so the checkpoint is sound at every moment.
    """
    content = json.dumps(score._asdict()).encode()
    sums = _read_sums(directory)
    write_file(directory / SCORE, content)
    write_file(
        directory / SUMS, _to_text({**sums, SCORE: hashlib.sha256(content).hexdigest()}).decode()
    )


def read_score(directory: Path) -> Score | None:
    """The score of a checkpoint; None if it has none, or none that can be trusted."""
    try:
        content = (directory / SCORE).read_bytes()
        if hashlib.sha256(content).hexdigest() != _read_sums(directory).get(SCORE):
            return None
        return Score(**json.loads(content))
    except (OSError, ValueError, TypeError):
        return None


def read_files(directory: Path) -> Content:
    """What a checkpoint holds, verified.

    Raises Damaged if it is not whole, UserError if another version of this code wrote it.
    """
    try:
        _refuse_older(directory)
        sums = _read_sums(directory)
        content = {name: (directory / name).read_bytes() for name in {ARRAYS, STATE, *sums}}
        for name in sorted(content.keys() - {SUMS}):
            if hashlib.sha256(content[name]).hexdigest() != sums.get(name):
                raise ValueError(f"the checksum of {name} is wrong")
        meta = json.loads(content[STATE])
        _check_format(directory, meta["format"])
        checked = {"metrics": dict(meta["metrics"]), "optional": list(meta["optional"])}
        meta = {"unfrozen_at": 0} | meta  # none of older versions had anything frozen
        meta |= checked | {name: int(meta[name]) for name in POSITION}
        return Content(safetensors.numpy.load(content[ARRAYS]), meta, sums[ARRAYS])
    except OSError as error:
        name = Path(error.filename).name if error.filename else "it"
        raise Damaged(f"{name} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise Damaged(str(error)) from None


def _refuse_older(directory: Path) -> None:
    """Raise UserError for a format that had its only checksum in `state.json`."""
    if (directory / SUMS).exists():
        return
    written = json.loads((directory / STATE).read_bytes())["format"]
    if isinstance(written, int) and written < FORMAT:
        _check_format(directory, written)


def _check_format(directory: Path, written: Any) -> None:
    if written != FORMAT:
        raise UserError(
            f"{directory} has format {written}, but this code reads {FORMAT}: use the version of "
            "Lockstep that wrote it, or train again in another --run-dir"
        )


def _read_sums(directory: Path) -> dict[str, str]:
    """Checksums by file name; ValueError if the file is not as `_to_text` writes it."""
    lines = (directory / SUMS).read_text("ascii").split("\n")
    sums = dict(line.split("  ")[::-1] for line in lines[:-1])
    if lines[-1] or not all(name in (ARRAYS, STATE, SCORE) for name in sums):
        raise ValueError(f"{SUMS} is not as it was written")
    return sums


def _to_text(sums: dict[str, str]) -> bytes:
    """As `sha256sum` writes it."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()).encode()


def _safetensors(arrays: dict[str, np.ndarray]) -> Iterator[Any]:
    """The bytes of a .safetensors file, in pieces: nothing is copied once more, and writing and
    hashing a large piece leave the interpreter to the threads that train."""
    header, end = {}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype = DTYPES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for begin in range(0, len(content), CHUNK):
            yield content[begin : begin + CHUNK].data


def _write(path: Path, pieces: Iterable[Any]) -> str:
    """Write a file down to the disk; returns its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
