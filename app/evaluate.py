"""Exact evaluation: every rank scores its part of a split, and counts are summed once."""

import dataclasses

import numpy as np
import tensorflow as tf

from app.classifier import Classifier
from app.data.batches import Feed, Split

EVALUATION_BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True)
class Scores:
    """Counts over a whole split.

    `confusion` int64 (classes, classes): row true class, column predicted class;
    `loss_sum`: cross-entropy summed over the examples, in nats.
    """

    confusion: np.ndarray
    loss_sum: float

    @property
    def examples(self) -> int:
        """How many examples were scored."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The share of examples whose most probable class is the true one."""
        return float(np.trace(self.confusion)) / self.examples

    @property
    def recall(self) -> list[float | None]:
        """The share of each class's examples that are recognised; None for a class without any."""
        totals = self.confusion.sum(axis=1)
        right = np.diag(self.confusion)
        return [float(r / t) if t else None for r, t in zip(right, totals, strict=True)]

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return self.loss_sum / self.examples


def evaluate(classifier: Classifier, split: Split, world) -> Scores:
    """Score a split on all ranks of `world`; a collective.

    The counts equal those of one process over the whole split: each example is scored by one
    rank, whatever the world size, and integers are summed once.
    """
    classes = classifier.network.output_shape[-1]
    confusion = np.zeros((classes, classes), np.int64)
    loss_sum = 0.0
    score = _scorer(classifier)
    for batch in Feed(split).evaluation(world.rank, world.size, EVALUATION_BATCH_SIZE):
        losses, predicted = score(batch.inputs, batch.labels)
        np.add.at(confusion, (batch.labels.numpy(), predicted.numpy()), 1)
        loss_sum += float(losses.numpy().astype(np.float64).sum())
    return Scores(world.sum(confusion), float(world.sum(np.array([loss_sum]))[0]))


def _scorer(classifier: Classifier):
    """The compiled forward pass; made once per classifier."""
    if not hasattr(classifier, "_scorer"):

        def score(inputs, labels):
            logits = classifier(inputs, training=False)
            return classifier.losses_of(labels, logits), tf.argmax(logits, axis=-1)

        classifier._scorer = tf.function(score, autograph=False, reduce_retracing=True)
    return classifier._scorer
