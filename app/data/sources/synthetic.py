"""Made-up images and texts of any number and size, for benchmarks and trials: nothing is learnt
from them but how fast they go by. Computed when they are read, so they need no memory."""

import dataclasses
import hashlib
from typing import ClassVar

import numpy as np

from app.data.examples import Content, Dataset, Examples
from app.errors import UserError, suggest

IMAGE, TEXT = "synthetic-image", "synthetic-text"
DEFAULTS = {
    IMAGE: {"examples": 10_000, "size": 32, "channels": 3, "classes": 10},
    TEXT: {"examples": 10_000, "words": 20, "vocabulary": 10_000, "classes": 10},
}
MOST_EXAMPLES = 100_000_000
TEST_SHARE = 10  # training examples for each test example


@dataclasses.dataclass(frozen=True, eq=False)
class SyntheticImages:
    """Noise `(n, size, size, channels)` uint8, brighter or darker by class."""

    labels: np.ndarray
    numbers: np.ndarray
    size: int
    channels: int
    files_of: ClassVar[None] = None
    content: ClassVar[Content] = "pixels"
    in_memory: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size_bytes(self) -> int:
        return len(self) * self.size * self.size * self.channels

    def take(self, indices: np.ndarray) -> "SyntheticImages":
        return dataclasses.replace(self, labels=self.labels[indices], numbers=self.numbers[indices])

    def read(self, indices: np.ndarray) -> np.ndarray:
        shape = (self.size, self.size, self.channels)
        images = np.empty((len(indices), *shape), np.uint8)
        for row, index in enumerate(indices):
            noise = np.random.PCG64(int(self.numbers[index])).random_raw(-(-np.prod(shape) // 8))
            images[row] = noise.view(np.uint8)[: np.prod(shape)].reshape(shape)
        level = (self.labels[indices] * 8 % 128).astype(np.uint8)
        return images // 2 + level[:, None, None, None]

    def where(self, index: int) -> str:
        return f"example {index}"

    def add_to(self, digest: "hashlib.blake2b") -> None:
        digest.update(repr((self.size, self.channels)).encode())
        digest.update(np.ascontiguousarray(self.numbers, dtype="<i8").data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)


def is_synthetic(name: str) -> bool:
    """True for `synthetic-image`, `synthetic-text:examples=100,classes=2` and the like."""
    return name.partition(":")[0] in DEFAULTS


def synthetic(name: str) -> Dataset:
    """The dataset of a name such as `synthetic-image:examples=50000,size=224,classes=1000`.

    Raises UserError for an unknown option or a value that is not a whole number above 0.
    """
    kind, _, given = name.partition(":")
    options = dict(DEFAULTS[kind])
    for part in filter(None, given.split(",")):
        key, _, value = part.partition("=")
        if key not in options:
            raise UserError(f"{name}: unknown option '{key}': {suggest(key, options)}")
        if not value.isdecimal() or int(value) < 1:
            raise UserError(f"{name}: {key} = '{value}': expected a whole number above 0")
        options[key] = int(value)
    if options["examples"] > MOST_EXAMPLES or options.get("channels", 1) not in (1, 3):
        raise UserError(f"{name}: at most {MOST_EXAMPLES:,} examples, of 1 or 3 channels")
    tests = max(1, options["examples"] // TEST_SHARE)
    make = _images if kind == IMAGE else _texts
    train, test = make(options, 0, options["examples"]), make(options, options["examples"], tests)
    names = tuple(f"class {number}" for number in range(options["classes"]))
    if kind == TEXT:
        return Dataset(kind, "text", names, train, None, test)
    shape = (options["size"], options["size"], options["channels"])
    return Dataset(kind, "image", names, train, None, test, image_shape=shape)


def _images(options: dict[str, int], first: int, examples: int) -> SyntheticImages:
    numbers = np.arange(first, first + examples)
    labels = numbers % options["classes"]
    return SyntheticImages(labels, numbers, options["size"], options["channels"])


def _texts(options: dict[str, int], first: int, examples: int) -> Examples:
    rng = np.random.default_rng(first)
    labels = np.arange(examples) % options["classes"]
    words = np.array([f"w{number}" for number in range(options["vocabulary"])])
    # The first word tells the class; the others are as frequent as Zipf's law has it.
    ranks = np.minimum(rng.zipf(1.3, (examples, options["words"])), len(words)) - 1
    ranks[:, 0] = labels % len(words)
    texts = np.array([" ".join(row) for row in words[ranks]], dtype=object)
    return Examples(texts, labels.astype(np.int64))
