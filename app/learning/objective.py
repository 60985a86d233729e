"""What a classifier of one or several heads minimises and counts: its losses and its metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from app.data.batches import Batch
from app.learning.task import Task, columns, targets_of


class Objective:
    """The losses and the metrics of `tasks`, one for each head.

    The metrics of one head are called "loss" and "accuracy", those of several "<name>_loss" and
    "<name>_accuracy"; they count only examples that have the label.
    """

    def __init__(self, tasks: Sequence[Task]):
        self.tasks = tuple(tasks)
        prefixes = [f"{task.name}_" for task in self.tasks] if self.has_several else [""]
        self.loss_means = [keras.metrics.Mean(name=f"{one}loss") for one in prefixes]
        self.accuracies = [
            keras.metrics.SparseCategoricalAccuracy(name=f"{one}accuracy") for one in prefixes
        ]

    @property
    def has_several(self) -> bool:
        """Whether there are several labels, each of which may be missing."""
        return len(self.tasks) > 1

    def losses(self, batch: Batch, logits: Any) -> list[tf.Tensor]:
        """What training minimises, by head, float32 (B,) each; see `Task`.

        The mean of one head is over examples, not over weights, so that the shares of ranks add up
        to the gradient of the whole global batch.
        """
        heads = self._by_head(batch.labels, logits)
        targets = batch.targets
        if targets is None:
            targets = [targets_of(labels, of_head) for _, labels, of_head in heads]
        elif not isinstance(targets, list | tuple):
            targets = [targets]
        return [
            task.objectives(wanted, of_head)
            for wanted, (task, _, of_head) in zip(targets, heads, strict=True)
        ]

    def test_losses(self, labels: tf.Tensor, logits: Any) -> list[tf.Tensor]:
        """Cross-entropy by head, float32 (B,) each; of a missing label it says nothing."""
        return [
            task.losses(tf.maximum(own, 0), of_head)
            for task, own, of_head in self._by_head(labels, logits)
        ]

    def counts(self, batch: Batch) -> tf.Tensor:
        """How many labels of each head a batch has, float32 (heads,); of blends the shares of them
        that are known."""
        if batch.targets is not None and self.has_several:
            known = [tf.reduce_sum(targets) for targets in batch.targets]
        else:
            known = [tf.math.count_nonzero(one >= 0) for one in columns(batch.labels)]
        return tf.stack([tf.cast(one, tf.float32) for one in known])

    def mean(self, losses: Sequence[tf.Tensor], counts: tf.Tensor) -> tf.Tensor:
        """The weighted sum over heads of the sum of losses by the count of labels, float32 ()."""
        means = [
            task.weight * tf.math.divide_no_nan(tf.reduce_sum(one), tf.cast(count, one.dtype))
            for task, one, count in zip(self.tasks, losses, tf.unstack(counts), strict=True)
        ]
        return tf.add_n(means)

    def count(self, losses: Sequence[tf.Tensor], logits: Any, labels: tf.Tensor) -> None:
        """Add a batch to the metrics."""
        if not self.has_several:
            examples = tf.cast(tf.shape(labels)[0], tf.float32)
            mean = tf.math.divide_no_nan(
                tf.reduce_sum(losses[0]), tf.cast(examples, losses[0].dtype)
            )
            self.loss_means[0].update_state(mean, examples)
            self.accuracies[0].update_state(labels, logits)
            return
        for number, (_, own, of_head) in enumerate(self._by_head(labels, logits)):
            is_known = tf.cast(own >= 0, tf.float32)
            self.loss_means[number].update_state(losses[number], is_known)
            self.accuracies[number].update_state(tf.maximum(own, 0), of_head, is_known)

    def with_totals(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """The results of the metrics, and of several heads `loss`, the weighted sum of theirs, and
        `accuracy`, that of the first."""
        if not self.has_several:
            return dict(results)
        first = results[f"{self.tasks[0].name}_accuracy"]
        return {"loss": self.total_loss(results), "accuracy": first, **results}

    def total_loss(self, results: Mapping[str, Any]) -> Any:
        """The weighted sum of the losses of all heads, of the results of their metrics."""
        if not self.has_several:
            return results["loss"]
        return sum(task.weight * results[f"{task.name}_loss"] for task in self.tasks)

    def _by_head(self, labels: tf.Tensor, logits: Any) -> list[tuple[Task, tf.Tensor, tf.Tensor]]:
        """(task, labels (B,), logits (B, classes)) of each head."""
        of_heads = logits if isinstance(logits, list | tuple) else [logits]
        return list(zip(self.tasks, columns(labels), of_heads, strict=True))
