"""What an evaluation says of each label: the scores of every head of a classifier."""

import dataclasses
from collections.abc import Mapping, Sequence

from app.evaluation.scores import Scores


@dataclasses.dataclass(frozen=True)
class Results:
    """The scores of each head, by its name, in order; with one label there is one.

    Each counts only examples that have its label. `weights`: how much the loss of each counts.
    """

    heads: Mapping[str, Scores]
    weights: Sequence[float] = (1.0,)

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
