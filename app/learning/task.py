"""Task: what one head of a classifier learns, and what its mistakes cost."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from app.config import Config
from app.data.heads import MISSING, ONLY, Head, by_head
from app.errors import UserError

OTHER_METRICS = ("val", "test", "ema")  # val_loss, test_loss, ema_loss


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


def tasks_of(config: Config, heads: Sequence[Head], train_labels: Any = None) -> list[Task]:
    """What each head learns. Raises UserError for numbers of weights that do not fit, and for a
    label whose metrics could be taken for others."""
    for name, _ in heads if len(heads) > 1 else ():
        if name in OTHER_METRICS or name.startswith("val_"):
            raise UserError(
                f"label '{name}': '{name}_loss' is what another metric is called: rename its column"
            )
    training, number = config.training, len(heads)
    loss_weights = _of_each(training.task_weights or [1.0], number, "task_weights", heads)
    wanted = training.label_smoothing
    given = wanted if isinstance(wanted, list) else [wanted]
    smoothing = _of_each(given, number, "label_smoothing", heads)
    of_classes: list[Any] = [None] * number
    if training.imbalance == "class_weights" and train_labels is not None:
        of_classes = [
            tuple(class_weights(labels[labels != MISSING], len(head.class_names)))
            for labels, head in zip(by_head(train_labels).T, heads, strict=True)
        ]
    parts = zip(heads, loss_weights, smoothing, of_classes, strict=True)
    return [Task(head.name, weight, amount, of) for head, weight, amount, of in parts]


def _of_each(given: Sequence[float], number: int, key: str, heads: Sequence[Head]) -> list[float]:
    """One number for each head, of as many, or of one for all."""
    if len(given) == 1:
        return [given[0]] * number
    if len(given) != number:
        names = ", ".join(head.name for head in heads)
        raise UserError(
            f"{key} has {len(given)} numbers, and there are {number} labels ({names}): give one "
            "for each, or one for all"
        )
    return list(given)


def class_weights(labels: np.ndarray, classes: int) -> list[float]:
    """examples / (classes present * examples of the class), for each class; 0 if it has none.

    Every class then counts the same in the loss, and the mean weight over the examples is 1.
    """
    counts = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(counts)
    return [len(labels) / (present * count) if count else 0.0 for count in counts.tolist()]
