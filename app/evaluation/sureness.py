"""How sure a classifier is of each example, and how far that can be relied on: accuracy over
coverage, and how well an unknown class is told from the known ones."""

from typing import Any

import numpy as np

from app.data.heads import Head
from app.distributed.world import World
from app.evaluation.scores import Scores

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
DIGITS = 1e6  # a threshold is rounded down to so many parts of 1


class Sureness:
    """Remembers this rank's part of a split, for one label.

    `unknown`: the class id of what belongs to none of the other classes; None if there is no such
    class.
    """

    def __init__(self, unknown: int | None = None):
        self.unknown = unknown
        self._rows = [np.zeros((0, 2 if unknown is None else 4))]

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Remember a batch: logits (B, classes), as calibrated, and labels int (B,)."""
        wide = logits.astype(np.float64)
        shares = np.exp(wide - wide.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        columns = [shares.max(axis=1), wide.argmax(axis=1) == labels]
        if self.unknown is not None:
            others = np.delete(shares, self.unknown, axis=1)
            columns += [others.max(axis=1, initial=0), labels == self.unknown]
        self._rows.append(np.stack(columns, axis=1))

    def gathered(self, world: World) -> np.ndarray:
        """Of all ranks, float64 (n, 2 or 4): the probability of the predicted class and whether
        it is right; with an unknown class the largest probability of the others, and whether the
        example is of it. A collective."""
        return np.concatenate(world.gather(np.concatenate(self._rows)))


def coverage_table(rows: np.ndarray) -> list[dict[str, Any]]:
    """What accuracy is left if the classifier abstains from what it is least sure of, as JSON
    values; `rows`: of `Sureness.gathered`.

    For each of COVERAGES the highest `abstain_below` that answers at least that share, how many it
    answers, and the accuracy of those; equally sure examples are answered together.
    """
    confidence = np.floor(np.nan_to_num(rows[:, 0]) * DIGITS) / DIGITS
    ordered, found = -np.sort(-confidence), {}
    for wanted in COVERAGES if len(rows) else ():
        least = float(ordered[int(np.ceil(wanted * len(rows))) - 1])
        answered = confidence >= least
        found[least] = {
            "abstain_below": least,
            "answered": int(answered.sum()),
            "coverage": float(answered.mean()),
            "accuracy": float(rows[answered, 1].mean()),
        }
    return list(found.values())


def of_unknown(rows: np.ndarray, scores: Scores, head: Head, unknown: int) -> dict[str, Any]:
    """How well the class `unknown` is recognised, as JSON values; `rows`: of
    `Sureness.gathered`; `scores`: of the same examples.

    `auroc`: the area under the ROC curve of the largest probability of all other classes, where
    examples of these are the positives: how often one of them has a larger one than one of the
    unknown class. None if either has no example.
    """
    from sklearn.metrics import roc_auc_score  # takes a while

    is_known = rows[:, 3] == 0
    both = is_known.any() and not is_known.all() and np.isfinite(rows[:, 2]).all()
    return {
        "class": head.class_names[unknown],
        "examples": int((~is_known).sum()),
        "recall": scores.recall[unknown],
        "auroc": float(roc_auc_score(is_known, rows[:, 2])) if both else None,
        "accuracy_of_others": float(rows[is_known, 1].mean()) if is_known.any() else None,
    }
