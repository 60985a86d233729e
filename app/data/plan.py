"""What is decided about a dataset, once per run, and kept with the run: the `DataPlan`.

It holds rows, reasons and lengths, never the content of an example; of texts it also holds the
tokenizer. Knows NumPy and nothing of TensorFlow or workers.
"""

import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.data.bad import BadExamples
from app.data.examples import Dataset, Source
from app.data.heads import ONLY, Head

# Grows when the same files become other examples: other tokens, orientation, transparency.
FORMAT = 3

Found = list[tuple[int, str]]  # (row, what is wrong with it)


class OtherFormatError(ValueError):
    """A plan that another version of Lockstep made, which reads examples in another way."""


@dataclasses.dataclass(frozen=True, eq=False)
class DataPlan:
    """What is needed to open a dataset as a run does, without looking into it.

    Args:
        name, kind, class_names, heads: as in `Dataset`.
        fingerprint: of the dataset as it is found, before anything is left out.
        examples: how many each split keeps.
        left_out: for each split the rows that are left out, by reason.
        stream: examples are read when their turn comes, and not kept in memory.
        image_shape: (height, width, channels) of all images; None for texts.
        tokenizer: `Tokenizer.to_json()`; None for images.
        pretrained: of an encoder that others have trained, what its network must know, and
            "sha256" of its weights; None if there is none.
        lengths: tokens of each text that is kept, of each split, as the network reads them (1 to
            max_tokens); unsigned (n,) of the smallest type that holds them.
        read_as: how files were read, for people.
        notes: what was decided, for people.
    """

    name: str
    kind: str
    class_names: tuple[str, ...]
    fingerprint: str
    examples: dict[str, int]
    left_out: dict[str, dict[str, list[int]]]
    stream: bool
    image_shape: tuple[int, int, int] | None = None
    tokenizer: dict[str, Any] | None = None
    pretrained: dict[str, Any] | None = None
    lengths: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    read_as: tuple[str, ...] = ()
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    heads: tuple[Head, ...] = ()

    def __post_init__(self) -> None:
        if len(self.heads) < 2:  # also where it is replaced by one with other class names
            object.__setattr__(self, "heads", (Head(ONLY, self.class_names),))

    def without_bad(self, dataset: Dataset, bad: BadExamples) -> Dataset:
        """The dataset without the rows that are left out, each added to `bad`.

        Raises UserError for the first of them where `bad` allows none.
        """
        splits = {
            name: leave_out(source, ungrouped(self.left_out.get(name, {})), bad)
            for name, source in dataset.splits.items()
        }
        return dataset.with_splits(splits)

    def of_split(self, split: str, stream: bool) -> "DataPlan":
        """The plan of one split alone, which is called "train" then."""
        return dataclasses.replace(
            self,
            stream=stream,
            examples={"train": self.examples[split]},
            left_out={"train": self.left_out.get(split, {})},
            lengths={"train": lengths} if (lengths := self.lengths.get(split)) is not None else {},
        )

    def to_json(self) -> dict[str, Any]:
        """All but the lengths, as JSON values."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del named["lengths"]
        if len(self.heads) == 1:
            del named["heads"]  # `class_names` says it
        return {"format": FORMAT, **named}

    def save(self, file: Path, write: Callable[[Path, str | bytes], None]) -> None:
        """Keep it in `file`, and the lengths beside it; `write` puts a whole file in the place of
        an old one, which may be mapped."""
        file.parent.mkdir(parents=True, exist_ok=True)
        for split, lengths in self.lengths.items():
            content = io.BytesIO()
            np.save(content, lengths, allow_pickle=False)
            write(_lengths_file(file, split), content.getvalue())
        text = json.dumps(self.to_json(), ensure_ascii=False, default=list)
        write(file, text + "\n")  # last: where it is, the lengths are


def read_plan(file: Path) -> DataPlan:
    """The plan that was saved in `file`; lengths stay on the disk until they are asked for.

    Raises OSError, or ValueError if it is not one, OtherFormatError if it is another version's.
    """
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it is not an object")
    if (version := found.pop("format", 1)) != FORMAT:
        raise OtherFormatError(f"it has format {version}, and this version reads {FORMAT}")
    try:
        for key in ("class_names", "image_shape", "read_as"):
            found[key] = None if found[key] is None else tuple(found[key])
        heads = found.get("heads", ())
        found["heads"] = tuple(Head(name, tuple(names)) for name, names in heads)
        splits = found["examples"] if found["kind"] == "text" else ()
        lengths = {
            name: np.load(_lengths_file(file, name), mmap_mode="r", allow_pickle=False)
            for name in splits
        }
        plan = DataPlan(**found, lengths=lengths)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is damaged ({error!r})") from None
    for name, array in lengths.items():
        if array.shape != (plan.examples[name],):
            raise ValueError(f"{_lengths_file(file, name)} is of another split")
    return plan


def _lengths_file(file: Path, split: str) -> Path:
    return file.with_name(f"lengths-{split}.npy")


def smallest(numbers: np.ndarray) -> np.ndarray:
    """The same numbers, none below 0, in the smallest unsigned type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def grouped(found: Iterable[tuple[int, str]]) -> dict[str, list[int]]:
    """The rows of each reason, ascending."""
    groups: dict[str, list[int]] = {}
    for row, reason in sorted(found):
        groups.setdefault(reason, []).append(row)
    return groups


def ungrouped(groups: Mapping[str, list[int]]) -> Found:
    """What `grouped` was given, ascending."""
    return sorted((row, reason) for reason, rows in groups.items() for row in rows)


def merged(parts: Iterable[Found]) -> Found:
    """What several ranks found, in the order of the dataset; what two of them found is one."""
    return sorted({row: reason for part in parts for row, reason in part}.items())


def kept_rows(number: int, found: Found) -> np.ndarray:
    """The rows below `number` that are not in `found`, ascending."""
    return np.setdiff1d(np.arange(number), [row for row, _ in found])


def leave_out(source: Source, found: Found, bad: BadExamples) -> Source:
    """The source without the rows that are bad; the first in the order of the dataset ends the run
    under on_bad = "error"."""
    if not found:
        return source
    for row, reason in sorted(found):
        bad.add(source.where(row), reason)
    return source.take(kept_rows(len(source), found))
