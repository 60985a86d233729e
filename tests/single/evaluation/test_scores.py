"""Metrics against scikit-learn's and against their definitions; parts add up to the whole."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from app.evaluation.scores import BINS, Mistake, Scores, Tally, most_confident


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def scores_of(logits: np.ndarray, labels: np.ndarray, most: int = 0, batch: int = 7) -> Scores:
    """Scored in batches, as a split is."""
    tally = Tally(logits.shape[1], most)
    for start in range(0, len(labels), batch):
        rows = np.arange(start, min(start + batch, len(labels)))
        tally.add(logits[rows], labels[rows], rows)
    return Scores.of(tally.counts, tally.sums, tally.mistakes)


@st.composite
def scored(draw) -> tuple[np.ndarray, np.ndarray]:
    """float32 logits (n, classes) without ties, and labels of only some of the classes."""
    classes, examples = draw(st.integers(2, 12)), draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    present = random.choice(classes, draw(st.integers(1, classes)), replace=False)
    labels = random.choice(present, examples).astype(np.int64)
    spread = draw(st.sampled_from([0.1, 1.0, 30.0]))
    logits = random.normal(size=(examples, classes)) * spread
    if draw(st.booleans()):  # a good classifier
        logits[np.arange(examples), labels] += 3 * spread
    return logits.astype(np.float32), labels


@settings(max_examples=150, deadline=None)
@given(scored())
def test_metrics_equal_those_of_scikit_learn(case) -> None:
    logits, labels = case
    scores, every = scores_of(logits, labels), np.arange(logits.shape[1])
    predicted = logits.argmax(axis=1)
    expected = confusion_matrix(labels, predicted, labels=every)
    np.testing.assert_array_equal(scores.confusion, expected)
    assert scores.examples == len(labels)
    assert scores.accuracy == accuracy_score(labels, predicted)
    probabilities = softmax(logits.astype(np.float64))
    # scikit-learn clips probabilities at machine epsilon.
    if probabilities[np.arange(len(labels)), labels].min() > 1e-15:
        assert scores.loss == pytest.approx(log_loss(labels, probabilities, labels=every))
    if logits.shape[1] > 5:
        expected = top_k_accuracy_score(labels, logits, k=5, labels=every)
        assert scores.top5_accuracy == pytest.approx(expected, abs=1e-12)
    else:
        assert scores.top5_accuracy is None


@settings(max_examples=150, deadline=None)
@given(scored())
def test_shares_of_classes_equal_those_of_scikit_learn(case) -> None:
    logits, labels = case
    scores, predicted = scores_of(logits, labels), logits.argmax(axis=1)
    options = {"labels": np.arange(logits.shape[1]), "zero_division": np.nan}
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, **options)
    for ours, theirs in ((scores.precision, precision), (scores.recall, recall), (scores.f1, f1)):
        expected = [None if math.isnan(value) else pytest.approx(value) for value in theirs]
        assert ours == expected
    assert scores.support == support.tolist()


@settings(max_examples=150, deadline=None)
@given(scored())
def test_averages_equal_those_of_scikit_learn(case) -> None:
    logits, labels = case
    scores, predicted = scores_of(logits, labels), logits.argmax(axis=1)
    for weighted, average in ((False, "macro"), (True, "weighted")):
        expected = precision_recall_fscore_support(
            labels, predicted, average=average, zero_division=0
        )[:3]
        ours = scores.average(weighted)
        assert list(ours) == ["precision", "recall", "f1"]
        assert list(ours.values()) == pytest.approx(list(expected))


def plain_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    total = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            total += inside.sum() / len(confidence) * gap
    return total


@settings(max_examples=150, deadline=None)
@given(scored())
def test_the_calibration_error_is_that_of_its_definition(case) -> None:
    logits, labels = case
    scores, probabilities = scores_of(logits, labels), softmax(logits.astype(np.float64))
    right = probabilities.argmax(axis=1) == labels
    expected = plain_calibration_error(probabilities.max(axis=1), right)
    assert scores.calibration_error == pytest.approx(expected, abs=1e-12)
    assert scores.bin_examples.sum() == len(labels)
    assert scores.bin_hits.sum() == right.sum()


def test_a_confidence_on_the_border_of_two_bins_belongs_to_the_lower() -> None:
    tally = Tally(3)
    tally.add(np.zeros((1, 3)), np.array([0]), np.array([0]))  # a third is the end of bin 4
    assert np.flatnonzero(Scores.of(tally.counts, tally.sums, []).bin_examples).tolist() == [4]


@settings(max_examples=60, deadline=None)
@given(scored(), st.integers(1, 5), st.integers(0, 6))
def test_parts_that_are_added_up_give_the_whole(case, ranks: int, most: int) -> None:
    logits, labels = case
    whole, parts = scores_of(logits, labels, most), []
    for rows in np.array_split(np.arange(len(labels)), ranks):  # some may be empty
        tally = Tally(logits.shape[1], most)
        tally.add(logits[rows], labels[rows], rows)
        parts.append(tally)
    counts = np.sum([part.counts for part in parts], axis=0)
    sums = np.sum([part.sums for part in parts], axis=0)
    mistakes = most_confident([one for part in parts for one in part.mistakes], most)
    added = Scores.of(counts, sums, mistakes)
    for name in ("confusion", "bin_examples", "bin_hits"):
        np.testing.assert_array_equal(getattr(added, name), getattr(whole, name), err_msg=name)
    assert added.top5_hits == whole.top5_hits
    assert added.mistakes == whole.mistakes
    assert added.loss_sum == pytest.approx(whole.loss_sum, rel=1e-12)
    np.testing.assert_allclose(added.bin_confidence, whole.bin_confidence, rtol=1e-12)


def test_the_most_confident_mistakes_come_first_and_of_equal_ones_the_first_in_the_split() -> None:
    logits = np.array([[0.0, 9], [9, 0], [0, 2], [0, 9], [0, 2], [5, 0]], np.float32)
    labels = np.array([0, 0, 0, 0, 0, 1])
    confident, middle, least = (float(1 / (1 + np.exp(-margin))) for margin in (9, 5, 2))
    expected = [
        Mistake(0, 0, 1, round(confident, 6)),
        Mistake(3, 0, 1, round(confident, 6)),
        Mistake(5, 1, 0, round(middle, 6)),
        Mistake(2, 0, 1, round(least, 6)),
        Mistake(4, 0, 1, round(least, 6)),
    ]
    for most in range(6):
        for batch in (1, 2, 6):
            assert scores_of(logits, labels, most, batch).mistakes == tuple(expected[:most])


def test_of_equal_logits_the_first_class_comes_first_in_top_1_and_top_5() -> None:
    labels = np.arange(7)
    scores = scores_of(np.zeros((7, 7)), labels)
    assert scores.confusion[:, 0].tolist() == [1] * 7
    assert scores.top5_hits == 5


def test_no_example_has_no_metrics() -> None:
    scores = scores_of(np.zeros((0, 6)), np.zeros(0, np.int64), most=3)
    assert scores.examples == 0 and scores.mistakes == ()
    assert math.isnan(scores.accuracy) and math.isnan(scores.loss)
    assert scores.calibration_error is None and scores.top5_accuracy is None
    assert scores.average() == {"precision": None, "recall": None, "f1": None}
    assert scores.precision == scores.recall == scores.f1 == [None] * 6
    described = scores.to_json(list("abcdef"))
    assert described["accuracy"] is None and described["loss"] is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_model_is_counted_and_has_no_loss(value: float) -> None:
    logits, labels = np.full((4, 6), value, np.float32), np.array([0, 1, 2, 3])
    scores = scores_of(logits, labels, most=2)
    assert scores.examples == 4
    described = json.loads(json.dumps(scores.to_json(list("abcdef")), allow_nan=False))
    assert described["loss"] is None and described["calibration_error"] is None
    assert len(scores.mistakes) == 2


def test_json_has_every_class_and_every_bin() -> None:
    logits = np.array([[5.0, 0, 0], [5, 0, 0], [0, 0, 5]])
    described = scores_of(logits, np.array([0, 1, 2])).to_json(["a", "b", "c"])
    assert described["classes"] == [
        {"class": "a", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "examples": 1},
        {"class": "b", "precision": None, "recall": 0.0, "f1": 0.0, "examples": 1},
        {"class": "c", "precision": 1.0, "recall": 1.0, "f1": 1.0, "examples": 1},
    ]
    assert described["confusion"] == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert len(described["calibration"]) == BINS
    last = described["calibration"][-1]
    assert last["examples"] == 3 and last["up_to"] == 1.0
    assert last["accuracy"] == pytest.approx(2 / 3)
    assert last["confidence"] == pytest.approx(float(np.exp(5) / (np.exp(5) + 2)))


def test_counts_alone_are_enough_for_what_training_shows() -> None:
    scores = Scores(np.array([[3, 1], [0, 4]]), loss_sum=4.0)
    assert scores.accuracy == 0.875 and scores.loss == 0.5 and scores.recall == [0.75, 1.0]
    assert scores.calibration_error is None
