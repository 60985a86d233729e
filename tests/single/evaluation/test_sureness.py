"""Accuracy over coverage and the unknown class, against plain loops and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from app.data.heads import Head
from app.distributed.world import World
from app.evaluation.scores import Scores, Tally
from app.evaluation.sureness import COVERAGES, Sureness, coverage_table, of_unknown

CLASSES, UNKNOWN = 4, 2
HEAD = Head("intent", ("a", "b", "out_of_scope", "c"))


def said(number: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    logits = (rng.normal(size=(number, CLASSES)) * 2).astype(np.float32)
    labels = np.where(rng.random(number) < 0.7, logits.argmax(axis=1), rng.integers(0, 4, number))
    return logits, labels


def remembered(logits: np.ndarray, labels: np.ndarray, unknown: int | None = None) -> np.ndarray:
    sureness = Sureness(unknown)
    for start in range(0, len(labels), 64):
        sureness.add(logits[start : start + 64], labels[start : start + 64])
    return sureness.gathered(World())


def shares_of(logits: np.ndarray) -> np.ndarray:
    wide = np.exp(logits.astype(np.float64))
    return wide / wide.sum(axis=1, keepdims=True)


def test_what_is_answered_above_each_threshold_is_as_many_and_as_good_as_said() -> None:
    logits, labels = said()
    table = coverage_table(remembered(logits, labels))
    assert len(table) == len(COVERAGES)
    confidence, right = shares_of(logits).max(axis=1), logits.argmax(axis=1) == labels
    for wanted, row in zip(COVERAGES, table, strict=True):
        answered = [r for c, r in zip(confidence, right, strict=True) if c >= row["abstain_below"]]
        assert row["answered"] == len(answered) >= wanted * len(labels)
        assert row["coverage"] == len(answered) / len(labels)
        assert row["accuracy"] == pytest.approx(np.mean(answered))
        # A higher threshold would answer less than is wanted.
        assert (confidence > row["abstain_below"] + 2e-6).sum() < wanted * len(labels)
    assert table[0]["answered"] == len(labels)
    assert table[-1]["accuracy"] > table[0]["accuracy"] - 0.2


def test_equally_sure_examples_are_answered_together() -> None:
    rows = np.array([[0.9, 1], [0.5, 0], [0.5, 1], [0.5, 1]])
    assert coverage_table(rows) == [
        {"abstain_below": 0.5, "answered": 4, "coverage": 1.0, "accuracy": 0.75}
    ]
    rows[1:3, 0] = 0.9
    assert [row["answered"] for row in coverage_table(rows)] == [4, 3]


def test_nothing_scored_is_no_table() -> None:
    assert coverage_table(remembered(*said(0))) == []
    assert coverage_table(np.array([[np.nan, 0.0]]))[0]["accuracy"] == 0.0


def scores_of(logits: np.ndarray, labels: np.ndarray) -> Scores:
    tally = Tally(CLASSES)
    tally.add(logits, labels, np.arange(len(labels)))
    return Scores.of(tally.counts, tally.sums, [])


def test_the_unknown_class_is_told_by_the_largest_probability_of_the_others() -> None:
    logits, labels = said()
    found = of_unknown(
        remembered(logits, labels, UNKNOWN), scores_of(logits, labels), HEAD, UNKNOWN
    )
    others = np.delete(shares_of(logits), UNKNOWN, axis=1).max(axis=1)
    is_known = labels != UNKNOWN
    right = logits.argmax(axis=1) == labels
    assert found["class"] == "out_of_scope"
    assert found["examples"] == (~is_known).sum() > 0
    assert found["auroc"] == pytest.approx(roc_auc_score(is_known, others))
    assert found["recall"] == pytest.approx(right[~is_known].mean())
    assert found["accuracy_of_others"] == pytest.approx(right[is_known].mean())
    pairs = [float(k > u) for k in others[is_known] for u in others[~is_known]]
    assert found["auroc"] == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("only", [UNKNOWN, 0])
def test_without_the_one_or_the_other_there_is_no_area(only: int) -> None:
    logits, labels = said()
    labels = np.full_like(labels, only)
    found = of_unknown(
        remembered(logits, labels, UNKNOWN), scores_of(logits, labels), HEAD, UNKNOWN
    )
    assert found["auroc"] is None
    assert (found["recall"] is None) == (only != UNKNOWN)
    assert (found["accuracy_of_others"] is None) == (only == UNKNOWN)
