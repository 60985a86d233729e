"""What an evaluation says of each label: the scores of every head of a classifier."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from app.data.heads import Head
from app.evaluation.scores import Scores, finite


@dataclasses.dataclass(frozen=True)
class Results:
    """The scores of each head, by its name, in order; with one label there is one.

    Each counts only examples that have its label. `weights`: how much the loss of each counts;
    `raw`: the scores of each head before calibration, empty if it is not calibrated.
    """

    heads: Mapping[str, Scores]
    weights: Sequence[float] = (1.0,)
    raw: Mapping[str, Scores] = dataclasses.field(default_factory=dict)

    @property
    def first(self) -> Scores:
        """Of the first label, by which models are chosen; the only one where there is one."""
        return next(iter(self.heads.values()))

    @property
    def several(self) -> Mapping[str, Scores]:
        """The scores of each head where there are several; empty where there is one."""
        return self.heads if len(self.heads) > 1 else {}

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats; of several labels the weighted sum of their means."""
        if len(self.heads) == 1:
            return self.first.loss
        scored = zip(self.weights, self.heads.values(), strict=True)
        known = [weight * scores.loss for weight, scores in scored if scores.examples]
        return sum(known) if known else float("nan")

    @property
    def accuracy(self) -> float:
        """Of the first label."""
        return self.first.accuracy

    def __str__(self) -> str:
        """The accuracy, for people; of several labels that of each."""
        each = [f"{name} {scores.accuracy:.2%}" for name, scores in self.several.items()]
        return ", ".join(each) or f"{self.accuracy:.2%}"

    def of_test(self, heads: Sequence[Head]) -> dict[str, Any]:
        """What metrics.json says of the test split; of several labels "test_heads" too, with
        accuracy, loss, examples and recall of each."""
        first = self.first
        found: dict[str, Any] = {
            "test_accuracy": first.accuracy,
            "test_loss": self.loss,
            "test_examples": first.examples,
            "test_recall": _recall(first, heads[0]),
        }
        if self.several:
            found["test_heads"] = {
                head.name: {
                    "accuracy": finite(scores.accuracy),
                    "loss": finite(scores.loss),
                    "examples": scores.examples,
                    "recall": _recall(scores, head),
                }
                for head, scores in zip(heads, self.heads.values(), strict=True)
            }
        return found


def _recall(scores: Scores, head: Head) -> dict[str, float | None]:
    return dict(zip(head.class_names, scores.recall, strict=True))
