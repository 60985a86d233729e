"""Task: what one head of a classifier learns, and what its mistakes cost."""

import dataclasses
from typing import Any

import tensorflow as tf

from app.data.heads import ONLY


@dataclasses.dataclass(frozen=True)
class Task:
    """A label to learn.

    `name`: of the label; `weight`: how much its loss counts beside those of others;
    `label_smoothing`: the share of each target spread over all classes (Szegedy et al. 2015,
    arXiv:1512.00567); `class_weights`: how much an example of each class counts in the loss,
    (classes,), None: all the same.
    """

    name: str = ONLY
    weight: float = 1.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Cross-entropy of each example, float32 (B,), in nats; labels: int64 (B,), 0 or more."""
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    def objectives(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """What training minimises, float32 (B,): cross-entropy against smoothed targets, weighted
        by class, times how much of the label is known.

        targets: the shares of each class, float32 (B, classes), which add up to less than 1 where
        the label is missing (0), or one of two images that were blended lacks it.
        """
        known = tf.reduce_sum(targets, axis=-1)
        shares = tf.math.divide_no_nan(targets, known[:, None])
        classes = logits.shape[-1]
        smoothed = shares * (1.0 - self.label_smoothing) + self.label_smoothing / classes
        losses = known * tf.nn.softmax_cross_entropy_with_logits(smoothed, logits)
        if self.class_weights is None:
            return losses
        return losses * tf.linalg.matvec(shares, tf.constant(self.class_weights, shares.dtype))


def targets_of(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """One-hot labels (B, classes) in the dtype of `logits`; 0 where a label is missing."""
    return tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)


def columns(labels: Any) -> list[tf.Tensor]:
    """The labels of each head, int (B,), of labels (B,) or (B, heads)."""
    return [labels] if len(labels.shape) == 1 else tf.unstack(labels, axis=1)
