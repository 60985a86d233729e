"""Pretrained weights that were found and checked, in whatever format they come."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from app.errors import UserError

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


@dataclasses.dataclass(frozen=True)
class Found:
    """Weights that fit a model, not loaded yet.

    `files`: that hold them; `network`: what the network must know, as JSON values (see the
    builder's `pretrained`); `tokenizer`: `Tokenizer.to_json()`, of texts; `image_size`: the pixels
    of the images that they were trained on.
    """

    files: Sequence[Path]
    network: dict[str, Any]
    tokenizer: dict[str, Any] | None = None
    image_size: int | None = None

    def sha256(self) -> str:
        """Of the content of the files, in hexadecimal."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read: {reason}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} cannot be read: it holds no JSON object")
    return found


def read_directory(directory: Path) -> tuple[Path, dict[str, Any]]:
    """The config.json of a directory, and its content. Raises UserError if there is none."""
    if not directory.is_dir():
        raise UserError(f"pretrained = '{directory}' is no directory")
    file = directory / "config.json"
    if not file.is_file():
        raise UserError(f"{directory} holds no config.json: is it the directory of a model?")
    return file, read_json(file)


def find_tensors(directory: Path) -> list[Path]:
    """The safetensors files of a directory. Raises UserError if there are none."""
    if (whole := directory / WEIGHTS).is_file():
        return [whole]
    if (index := directory / INDEX).is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise UserError(f"{index} cannot be read: it has no weight_map")
        files = [directory / name for name in sorted(set(map(str, names.values())))]
        for file in files:
            if not file.is_file():
                raise UserError(f"{file} is missing, and {index.name} names it: download it again")
        return files
    if pickles := sorted(directory.glob("*.bin")):
        raise UserError(
            f"{directory} holds {pickles[0].name}, a pickle, which may run any code when it is "
            f"opened, but no {WEIGHTS}: download a version of the model that has one"
        )
    raise UserError(f"{directory} holds no {WEIGHTS}: is it the directory of a model?")


class Tensors:
    """The tensors of safetensors files, by name; read when asked for.

    `prefixes`: of names that are left out, such as "bert."; `renamed`: parts of names, and what
    they are called now.
    """

    def __init__(
        self, files: Sequence[Path], prefixes: Sequence[str] = (), renamed: Mapping[str, str] = {}
    ):
        self._place: dict[str, tuple[Path, str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            with _opened(file) as tensors:
                for key in tensors.keys():  # noqa: SIM118 - it has no iterator
                    name = key
                    for prefix in prefixes:
                        name = name.removeprefix(prefix)
                    for old, new in renamed.items():
                        name = name.replace(old, new)
                    self._place[name] = file, key
                    self.shapes[name] = tuple(tensors.get_slice(key).get_shape())

    def check(self, wanted: Mapping[str, tuple[int, ...]], place: Path) -> None:
        """Raise UserError if one of the tensors `wanted` is not there, or of another shape."""
        for name, shape in wanted.items():
            if name not in self.shapes:
                raise UserError(f"{place}: the weights have no '{name}', which config.json implies")
            if self.shapes[name] != shape:
                raise UserError(
                    f"{place}: '{name}' has the shape {self.shapes[name]}, and config.json implies "
                    f"{shape}: are they of the same model?"
                )

    def read(self, name: str) -> np.ndarray:
        """float32. Raises UserError if numbers are not finite, or the file cannot be read."""
        file, key = self._place[name]
        with _opened(file) as tensors:
            array = tensors.get_tensor(key).astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{file}: '{key}' holds numbers that are not finite: download it again")
        return array


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(file, "np") as tensors:
            yield tensors
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} cannot be read as safetensors: {error}") from None
