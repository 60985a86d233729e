"""What a dataset is: sources of inputs with labels, splits and a fingerprint.

Knows NumPy and nothing of TensorFlow, workers or where the examples came from.
"""

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from app.data.heads import MISSING, ONLY, Head, by_head
from app.data.order import Groups

# Encoded images are "files" if each is a file of its own, whose header says its size; "encoded" if
# their size is known, or all of them must be read to know it.
Content = Literal["pixels", "files", "encoded", "text"]
EXAMPLES_AT_ONCE = 1024  # read by one call where a whole split is gone through


class Source(Protocol):
    """A split before it is decoded: its labels are at hand, its inputs are read by position.

    `labels`: class ids, int64 `(n,)`; of several labels `(n, heads)`, see heads.py.
    `files_of`: the file of each example, int `(n,)`, if files
    hold many examples and are best read from front to back; else None. `content`: what `read`
    gives. `in_memory`: reading costs nothing, and to stream it would save nothing. `size_bytes`:
    about how much memory all inputs take as `read` gives them.
    """

    @property
    def content(self) -> Content: ...

    @property
    def in_memory(self) -> bool: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def files_of(self) -> np.ndarray | None: ...

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> "Source":
        """The examples at `indices` (int `(m,)`), in that order."""
        ...

    def read(self, indices: np.ndarray) -> Any:
        """Encoded images or UTF-8 texts as bytes `(m,)`; "pixels", and texts in memory, as in
        `Examples.inputs`."""
        ...

    def where(self, index: int) -> str:
        """The file and row of an example, for messages."""
        ...

    def add_to(self, digest: "hashlib.blake2b") -> None:
        """Add to a fingerprint what tells this split from any other."""
        ...


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled examples in a fixed order; row i of `inputs` has label `labels[i]`.

    Args:
        inputs: images as uint8 `(n, height, width, channels)`, or texts as `str` in an object
            array `(n,)`.
        labels: class ids, int64 `(n,)`, or `(n, heads)` with -1 for a missing one.
        origins: where each example came from, for messages; None: its number says it.

    Raises:
        ValueError: a shape or dtype is another one, or the lengths differ.
    """

    inputs: np.ndarray
    labels: np.ndarray
    origins: np.ndarray | None = None
    files_of: ClassVar[None] = None
    in_memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        images = self.inputs.dtype == np.uint8 and self.inputs.ndim == 4
        texts = self.inputs.dtype == object and self.inputs.ndim == 1
        if not (images or texts):
            raise ValueError(
                "inputs must be uint8 images (n, height, width, channels) or an object array (n,) "
                f"of str; got {self.inputs.dtype} {self.inputs.shape}"
            )
        if self.labels.dtype != np.int64 or self.labels.ndim not in (1, 2):
            raise ValueError(
                f"labels must be int64 (n,) or (n, heads); got {self.labels.dtype} "
                f"{self.labels.shape}"
            )
        if len(self.inputs) != len(self.labels):
            raise ValueError(
                "every input needs one label; "
                f"got {len(self.inputs)} inputs and {len(self.labels)} labels"
            )
        if texts:
            for row, text in enumerate(self.inputs):
                if not isinstance(text, str):
                    raise ValueError(f"texts must be str; row {row} is {type(text).__name__}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def content(self) -> Content:
        return "text" if self.inputs.dtype == object else "pixels"

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.inputs)) if self.content == "text" else self.inputs.nbytes

    def take(self, indices: np.ndarray) -> "Examples":
        origins = None if self.origins is None else self.origins[indices]
        return Examples(self.inputs[indices], self.labels[indices], origins)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.inputs[indices]

    def where(self, index: int) -> str:
        return f"example {index}" if self.origins is None else str(self.origins[index])

    def add_to(self, digest: "hashlib.blake2b") -> None:
        add_texts(digest, (str(self.inputs.shape),))
        if self.inputs.dtype == object:
            add_texts(digest, self.inputs)
        else:
            digest.update(np.ascontiguousarray(self.inputs).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named dataset and its splits.

    Args:
        name: what the user calls it.
        kind: what the inputs are.
        class_names: the name of label i is `class_names[i]`.
        train: the examples to learn from.
        validation: the examples to choose settings by; None if the dataset has none of its own.
        test: the examples to report on; None if the dataset has none of its own.
        version: what else the content depends on, such as the version of its source.
        image_shape: (height, width, channels) of encoded images, None where it is not the same
            for all or not known.
        notes: how it was read, for people.
        heads: its labels, if there are several; `class_names` are those of the first. Empty: one.

    Raises:
        ValueError: a split is of the other kind, has a label with no class name, or another number
            of labels.
    """

    name: str
    kind: Literal["image", "text"]
    class_names: tuple[str, ...]
    train: Source
    validation: Source | None = None
    test: Source | None = None
    version: str = ""
    image_shape: tuple[int | None, int | None, int | None] = (None, None, None)
    notes: tuple[str, ...] = ()
    heads: tuple[Head, ...] = ()

    def __post_init__(self) -> None:
        if len(self.heads) < 2:  # also where it is replaced by one with other class names
            object.__setattr__(self, "heads", (Head(ONLY, self.class_names),))
        for split, source in self.splits.items():
            if (source.content == "text") != (self.kind == "text"):
                raise ValueError(
                    f"{self.name}/{split}: the inputs of kind {self.kind!r} cannot be "
                    f"{source.content}"
                )
            self._check_labels(split, by_head(source.labels))

    def _check_labels(self, split: str, labels: np.ndarray) -> None:
        if labels.shape[1] != len(self.heads):
            raise ValueError(
                f"{self.name}/{split}: {labels.shape[1]} labels, but {len(self.heads)} heads"
            )
        least = 0 if len(self.heads) == 1 else MISSING
        for number, (name, class_names) in enumerate(self.heads):
            outside = (labels[:, number] < least) | (labels[:, number] >= len(class_names))
            if outside.any():
                row = int(np.argmax(outside))
                what = "" if len(self.heads) == 1 else f" '{name}'"
                raise ValueError(
                    f"{self.name}/{split}: row {row} has label{what} {labels[row, number]}, but "
                    f"there are {len(class_names)} classes, numbered from 0"
                )

    @property
    def splits(self) -> dict[str, Source]:
        """The splits that the dataset has, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: source for name, source in named.items() if source is not None}

    def with_splits(self, splits: dict[str, Any]) -> "Dataset":
        """The same dataset with other splits."""
        named = {name: splits.get(name) for name in ("train", "validation", "test")}
        return dataclasses.replace(self, **named)  # type: ignore[arg-type]

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits that change with the kind, a class name, the version, a split, an input or
        a label, and with the order of any of them; the dataset's name is not part of it."""
        digest = hashlib.blake2b(digest_size=16)
        add_texts(digest, (self.kind, self.version))
        add_texts(digest, self.class_names)
        for name, class_names in self.heads if len(self.heads) > 1 else ():
            add_texts(digest, (name, *class_names))
        for split, source in self.splits.items():
            add_texts(digest, (split,))
            source.add_to(digest)
        return digest.hexdigest()


def add_texts(digest: "hashlib.blake2b", texts: "np.ndarray | tuple[str, ...]") -> None:
    """Add a sequence of texts to a fingerprint."""
    # Length first: without it ("ab", "c") and ("a", "bc") would be the same bytes.
    digest.update(len(texts).to_bytes(8, "little"))
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)


def stratified_split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of the examples, the same share of every class.

    Each class gives its share rounded down; the largest fractions give one more, until
    `round(share * n)` are held out. Every class keeps at least one example, so a class of one
    stays whole.

    Args:
        labels: class ids, int `(n,)`, 0 or more.
        share: the share to hold out, between 0 and 1.
        seed: the same seed always gives the same split, under every version of NumPy.

    Returns:
        Two int64 arrays of indices, each ascending: those kept and those held out.

    Raises:
        ValueError: `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share to hold out must be between 0 and 1; got {share}")
    # NumPy keeps the raw stream of a bit generator from version to version, but not what
    # Generator.permutation makes of it (NEP 19).
    bits = np.random.PCG64(seed)
    classes = Groups(labels)
    counts = classes.sizes
    quota = share * counts
    take = np.minimum(np.floor(quota), counts - 1).astype(np.int64)
    missing = max(0, round(share * len(labels)) - int(take.sum()))
    by_fraction = np.lexsort((bits.random_raw(len(classes)), take - quota))
    can_give = by_fraction[take[by_fraction] < counts[by_fraction] - 1]
    take[can_give[:missing]] += 1

    held_out = np.zeros(len(labels), dtype=bool)
    for group, number in enumerate(take):
        members = classes[group]
        shuffled = members[np.argsort(bits.random_raw(len(members)), kind="stable")]
        held_out[shuffled[:number]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
