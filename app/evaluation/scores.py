"""What is counted while a split is scored, and the metrics that follow from the counts.

Pure NumPy. Every metric comes from numbers that can be added up, so ranks that each score a part
get what one process gets for the whole.
"""

import dataclasses
from dataclasses import field
from typing import Any

import numpy as np

TOP = 5
BINS = 15  # as in Guo et al. 2017
# Bin m is (m/15, (m+1)/15]; confidences are above 0.
BIN_EDGES = np.arange(BINS + 1) / BINS
# Logits differ in the last bits between batch sizes; once rounded, equal confidences stay equal.
CONFIDENCE_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An example that was taken for another class, with the probability given to that class.

    `index` is its place in the split; `true` and `predicted` are class ids.
    """

    index: int
    true: int
    predicted: int
    confidence: float


class Tally:
    """Counts what a classifier says about examples, batch by batch.

    Args:
        classes: how many there are.
        most_mistakes: how many of the most confident mistakes to remember.

    Attributes:
        counts: int64 (classes**2 + 1 + 2 * BINS,), to be added over ranks.
        sums: float64 (1 + BINS,), to be added over ranks.
        mistakes: those of this rank, in the order of `most_confident`.
    """

    def __init__(self, classes: int, most_mistakes: int = 0):
        self.counts = np.zeros(classes * classes + 1 + 2 * BINS, np.int64)
        self.sums = np.zeros(1 + BINS, np.float64)
        self.mistakes: list[Mistake] = []
        self._most_mistakes = most_mistakes
        self._parts = _parts(self.counts, self.sums, classes)  # views: to add is to count

    def add(self, logits: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
        """Count a batch: logits (B, classes), labels int (B,), and places in the split int (B,)."""
        parts, rows = self._parts, np.arange(len(labels))
        logits = logits.astype(np.float64)
        predicted = logits.argmax(axis=1)
        with np.errstate(invalid="ignore"):  # NaN from a diverged model; the loss shows it
            shifted = logits - logits[rows, predicted, None]
        log_total = np.log(np.exp(shifted).sum(axis=1))
        losses = log_total - shifted[rows, labels]
        confidence = np.exp(-log_total)
        np.add.at(parts["confusion"], (labels, predicted), 1)
        parts["loss_sum"] += losses.sum()
        parts["top5_hits"] += np.count_nonzero(_places(logits, labels) < TOP)
        bins = np.searchsorted(BIN_EDGES[1:-1], confidence, side="left")
        np.add.at(parts["bin_examples"], bins, 1)
        np.add.at(parts["bin_hits"], bins, predicted == labels)
        np.add.at(parts["bin_confidence"], bins, confidence)
        self._remember(indices, labels, predicted, confidence)

    def _remember(
        self,
        indices: np.ndarray,
        labels: np.ndarray,
        predicted: np.ndarray,
        confidence: np.ndarray,
    ) -> None:
        rounded = np.nan_to_num(confidence).round(CONFIDENCE_DIGITS)
        wrong = np.flatnonzero(predicted != labels)
        order = wrong[np.lexsort((indices[wrong], -rounded[wrong]))][: self._most_mistakes]
        columns = (column[order].tolist() for column in (indices, labels, predicted, rounded))
        found = [Mistake(*row) for row in zip(*columns, strict=True)]
        self.mistakes = most_confident([*self.mistakes, *found], self._most_mistakes)


def _places(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes rank before the true one, int (B,). Of equal logits the first class wins, as
    in argmax; a true class with logit NaN ranks last."""
    own = logits[np.arange(len(labels)), labels, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    before = (logits > own) | ((logits == own) & earlier)
    return np.where(np.isnan(own[:, 0]), logits.shape[1], before.sum(axis=1))


def most_confident(mistakes: list[Mistake], most: int) -> list[Mistake]:
    """The `most` most confident ones; of equally confident ones the first in the split."""
    return sorted(mistakes, key=lambda mistake: (-mistake.confidence, mistake.index))[:most]


def _parts(counts: np.ndarray, sums: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Views of what is counted, by the names of `Scores`."""
    confusion, top5_hits, bins = np.split(counts, [classes * classes, classes * classes + 1])
    return {
        "confusion": confusion.reshape(classes, classes),
        "loss_sum": sums[:1],
        "top5_hits": top5_hits,
        "bin_examples": bins[:BINS],
        "bin_hits": bins[BINS:],
        "bin_confidence": sums[1:],
    }


@dataclasses.dataclass(frozen=True)
class Scores:
    """Counts over a whole split, and the metrics from them. A share of no examples is None, or NaN
    where the type is a plain float.

    `confusion` int64 (classes, classes): row true class, column predicted class;
    `loss_sum`: cross-entropy summed over the examples, in nats; `top5_hits`: examples whose class
    is among the five most probable; `bin_examples`, `bin_hits` int64 and `bin_confidence` float64
    (BINS,): examples by the probability of the predicted class, how many of them are right, and
    the sum of those probabilities; `mistakes`: the most confident ones, if they were asked for.
    """

    confusion: np.ndarray
    loss_sum: float
    top5_hits: int = 0
    bin_examples: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    bin_hits: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    bin_confidence: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.float64))
    mistakes: tuple[Mistake, ...] = ()

    @classmethod
    def of(cls, counts: np.ndarray, sums: np.ndarray, mistakes: list[Mistake]) -> "Scores":
        """From the `counts` and `sums` of a `Tally`, or of several added up."""
        parts: dict[str, Any] = _parts(counts, sums, int(np.sqrt(len(counts) - 1 - 2 * BINS)))
        parts |= {"loss_sum": float(sums[0]), "top5_hits": int(parts["top5_hits"][0])}
        return cls(**parts, mistakes=tuple(mistakes))

    @property
    def examples(self) -> int:
        """How many examples were scored."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The share of examples whose most probable class is the true one."""
        return float(np.trace(self.confusion)) / self.examples if self.examples else float("nan")

    @property
    def top5_accuracy(self) -> float | None:
        """The share whose true class is among the five most probable; None for up to 5 classes."""
        known = len(self.confusion) > TOP and self.examples
        return self.top5_hits / self.examples if known else None

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return self.loss_sum / self.examples if self.examples else float("nan")

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error (Guo et al. 2017, arXiv:1706.04599): the mean distance of
        confidence from accuracy over bins of equal width, weighted by their examples."""
        binned = int(self.bin_examples.sum())
        return float(np.abs(self.bin_hits - self.bin_confidence).sum()) / binned if binned else None

    @property
    def support(self) -> list[int]:
        """The number of examples of each class."""
        return self.confusion.sum(axis=1).tolist()

    @property
    def precision(self) -> list[float | None]:
        """For each class, the share of its predictions that are right; None if never predicted."""
        return _ratios(np.diag(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> list[float | None]:
        """The share of each class's examples that are recognised; None if it has no examples."""
        return _ratios(np.diag(self.confusion), self.confusion.sum(axis=1))

    @property
    def f1(self) -> list[float | None]:
        """The harmonic mean of precision and recall; None for a class that neither occurs nor is
        predicted."""
        both = self.confusion.sum(axis=0) + self.confusion.sum(axis=1)
        return _ratios(2 * np.diag(self.confusion), both)

    def average(self, weighted: bool = False) -> dict[str, float | None]:
        """Mean precision, recall and F1 over the classes that occur or are predicted, undefined
        ones as 0; each class counts the same or, if `weighted`, as often as it has examples.

        This is what scikit-learn's `classification_report` gives.
        """
        support = self.confusion.sum(axis=1)
        weights = support if weighted else support + self.confusion.sum(axis=0) > 0
        table = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        if not self.examples:
            return dict.fromkeys(table)
        return {
            name: float(np.average([value or 0.0 for value in column], weights=weights))
            for name, column in table.items()
        }

    def to_json(self, class_names: list[str]) -> dict[str, Any]:
        """All metrics as JSON values; what is not a number is None."""
        columns = (class_names, self.precision, self.recall, self.f1, self.support)
        names = ("class", "precision", "recall", "f1", "examples")
        return {
            "examples": self.examples,
            "accuracy": finite(self.accuracy),
            "top5_accuracy": self.top5_accuracy,
            "loss": finite(self.loss),
            "calibration_error": finite(self.calibration_error),
            "macro_average": self.average(),
            "weighted_average": self.average(weighted=True),
            "classes": [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)],
            "confusion": self.confusion.tolist(),
            "calibration": self._bins(),
        }

    def _bins(self) -> list[dict[str, Any]]:
        confidence = _ratios(self.bin_confidence, self.bin_examples)
        accuracy = _ratios(self.bin_hits, self.bin_examples)
        return [
            {
                "above": float(BIN_EDGES[number]),
                "up_to": float(BIN_EDGES[number + 1]),
                "examples": int(self.bin_examples[number]),
                "confidence": finite(confidence[number]),
                "accuracy": accuracy[number],
            }
            for number in range(BINS)
        ]


def _ratios(parts: np.ndarray, totals: np.ndarray) -> list[float | None]:
    return [float(p / t) if t else None for p, t in zip(parts, totals, strict=True)]


def finite(number: float | None) -> float | None:
    """The number; None for NaN and infinity, which JSON does not have."""
    return None if number is None or not np.isfinite(number) else number
