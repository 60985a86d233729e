"""Classifier: a network with the one training step and the one test step of Lockstep.

Knows neither Horovod nor how many workers there are: the optimizer does.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from app.data.batches import Batch
from app.state import Kind, state_variables


class Classifier(keras.Model):
    """Train `network`, which gives logits (B, classes), on integer labels (B,).

    The network's inputs are a tensor or a dict of tensors, with one row for each example.
    `fit()` takes batches `(inputs, labels)`, `(inputs, labels, sample_weight)` or `Batch`; compile
    it with an `app.distributed.DistributedOptimizer`. Batches may differ in size between ranks, and
    even be empty, as long as all ranks have the same number of them.

    `label_smoothing`: the share of each target spread over all classes (Szegedy et al. 2015,
    arXiv:1512.00567); `class_weights`: how much an example of each class counts in the loss.
    Neither is part of a test loss. `sample_weight` is, as everywhere in Keras, and so is the
    `class_weight` of `fit()`, which becomes one: the loss is the mean over examples, not over
    weights, of weight times cross-entropy. Accuracy is not weighted.
    """

    # Horovod's collectives cannot be compiled by XLA; this turns off Keras' jit_compile="auto".
    supports_jit = False

    def __init__(
        self,
        network: keras.Model,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        name: str = "classifier",
    ):
        super().__init__(name=name)
        self.network = network
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else tuple(class_weights)
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self._gradient_kinds: list[Callable[[], Any]] | None = None
        self._is_never_empty = False
        self.built = True

    def compile(self, optimizer: Any, **options: Any) -> None:
        """Keras' compile; the loss and the metrics are the classifier's own."""
        if not hasattr(optimizer, "settle"):
            raise ValueError(
                f"optimizer={optimizer!r}: expected app.distributed.DistributedOptimizer(...), "
                "which also works with one process"
            )
        self._gradient_kinds = None  # other variables may learn now
        super().compile(optimizer=optimizer, **options)

    @contextlib.contextmanager
    def never_empty(self) -> Iterator[None]:
        """A step that is traced in the block for any number of examples will be given some."""
        self._is_never_empty = True
        try:
            yield
        finally:
            self._is_never_empty = False

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What `fit()` resets at each epoch."""
        return [self.loss_mean, self.accuracy]

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Logits float32 (B, classes)."""
        return self.network(inputs, training=training)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One update from this rank's part of a global batch.

        Raises ValueError for a tuple that `fit()` would not pass to a classifier.
        """
        self.optimizer.check_settles()
        batch, weights = unpacked(data)
        examples = tf.shape(batch.labels)[0]
        loss, logits, gradients = self.learn(batch, weights)
        self.optimizer.apply(
            gradients,
            self.trainable_variables,
            weight=examples,
            total_weight=batch.total,
            loss=loss,
        )
        tf.cond(
            tf.math.is_finite(loss),
            lambda: self._update_metrics(loss, logits, batch.labels, examples),
            self.get_metrics_result,
        )
        return self.get_metrics_result()

    def learn(self, batch: Batch, weights: Any = None) -> tuple[tf.Tensor, tf.Tensor, list[Any]]:
        """Forward and backward: (mean loss over the examples, logits, gradients); in the graph of a
        step. Changes no variable but the moving statistics of BatchNorm, and these not where a
        number is not finite.

        `weights`: of the examples, or None.
        """

        def learn():
            with tf.GradientTape() as tape:
                logits = self(batch.inputs, training=True)
                loss = tf.reduce_mean(weighed(self.objectives_of(batch, logits), weights))
                objective = self.optimizer.scale_loss(loss)
            return loss, logits, tape.gradient(objective, self.trainable_variables)

        statistics = self._statistics()
        loss, logits, gradients = self._unless_empty(learn, batch)
        self._undo_statistics(statistics, loss)
        return loss, logits, gradients

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Loss and accuracy of one batch, with what training adds (dropout) turned off."""
        batch, weights = unpacked(data)
        examples = tf.shape(batch.labels)[0]
        logits = self(batch.inputs, training=False)
        loss_sum = tf.reduce_sum(weighed(self.losses_of(batch.labels, logits), weights))
        loss = tf.math.divide_no_nan(loss_sum, tf.cast(examples, loss_sum.dtype))
        return self._update_metrics(loss, logits, batch.labels, examples)

    def losses_of(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Cross-entropy of each example, float32 (B,), in nats."""
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    def objectives_of(self, batch: Batch, logits: tf.Tensor) -> tf.Tensor:
        """What training minimises, float32 (B,): cross-entropy against soft or smoothed targets,
        weighted by class.

        Its mean is over examples, not over weights, so that the shares of ranks add up to the
        gradient of the whole global batch.
        """
        classes = logits.shape[-1]
        targets = batch.targets
        if targets is None:
            targets = tf.one_hot(batch.labels, classes, dtype=logits.dtype)
        smoothed = targets * (1.0 - self.label_smoothing) + self.label_smoothing / classes
        losses = tf.nn.softmax_cross_entropy_with_logits(smoothed, logits)
        if self.class_weights is None:
            return losses
        return losses * tf.linalg.matvec(targets, tf.constant(self.class_weights, targets.dtype))

    def _update_metrics(self, loss, logits, labels, examples) -> dict[str, tf.Tensor]:
        self.loss_mean.update_state(loss, sample_weight=tf.cast(examples, tf.float32))
        self.accuracy.update_state(labels, logits)
        return self.get_metrics_result()

    def _statistics(self) -> list[tuple[keras.Variable, tf.Tensor]]:
        """The moving statistics of BatchNorm that the forward pass will change, and their values;
        in the graph of a step."""
        averaged = [e.variable for e in state_variables(self) if e.kind is Kind.AVERAGED]
        return [(variable, tf.convert_to_tensor(variable.value)) for variable in averaged]

    def _undo_statistics(
        self, before: list[tuple[keras.Variable, tf.Tensor]], loss: tf.Tensor
    ) -> None:
        """Set the moving statistics back if the pass had numbers that are not finite."""
        if not before:
            return

        def restore() -> bool:
            for variable, value in before:
                variable.assign(value)
            return True

        now = tf.concat([tf.convert_to_tensor(variable.value) for variable, _ in before], axis=0)
        fine = tf.math.is_finite(loss) & tf.math.is_finite(tf.reduce_sum(now))
        tf.cond(fine, lambda: True, restore)

    def _unless_empty(self, learn: Callable, batch: Batch) -> tuple[Any, Any, list[Any]]:
        """`learn()`, or zeros of the same structure if this rank has no examples.

        The forward pass is skipped then: the mean of nothing is NaN, and BatchNorm would take it
        into its statistics.
        """
        rows = batch.labels.shape[0]
        if rows == 0:
            return self._zeros(learn)
        if rows is not None or self._is_never_empty:
            return learn()
        zeros = self._zeros(learn)
        flat = tf.cond(
            tf.shape(batch.labels)[0] > 0,
            lambda: tf.nest.flatten(learn(), expand_composites=True),
            lambda: tf.nest.flatten(zeros, expand_composites=True),
        )
        return tf.nest.pack_sequence_as(zeros, flat, expand_composites=True)

    def _zeros(self, learn: Callable) -> tuple[tf.Tensor, tf.Tensor, list[Any]]:
        """What `learn` returns for no examples: loss 0, no logits, gradients of 0, sparse or dense.

        All ranks must exchange a gradient in the same way, so its kind is read from a trace.
        """
        if self._gradient_kinds is None:
            gradients = tf.function(learn).get_concrete_function().structured_outputs[2]
            variables = self.trainable_variables
            self._gradient_kinds = [
                _zero_like(gradient, tuple(variable.shape))
                for gradient, variable in zip(gradients, variables, strict=True)
            ]
        logits = tf.zeros((0, self.network.output_shape[-1]))
        return tf.constant(0.0), logits, [make() for make in self._gradient_kinds]


def unpacked(data: Any) -> tuple[Batch, Any]:
    """(batch, weights of its examples or None): Lockstep's loop passes a `Batch`, Keras a tuple."""
    if isinstance(data, Batch):
        return data, None
    if not isinstance(data, tuple | list) or len(data) not in (2, 3) or data[1] is None:
        found = f"{len(data)} parts" if isinstance(data, tuple | list) else type(data).__name__
        raise ValueError(
            f"a classifier got {found}: expected (inputs, labels), (inputs, labels, "
            "sample_weight) or an app.data.batches.Batch"
        )
    inputs, labels, *weights = data
    return Batch(inputs, labels), weights[0] if weights else None


def weighed(losses: tf.Tensor, weights: Any) -> tf.Tensor:
    """Losses (B,) times weights (B,) or (B, 1); unchanged if the weights are None."""
    if weights is None:
        return losses
    weights = tf.convert_to_tensor(weights)
    if weights.shape.rank is not None and weights.shape[1:].num_elements() != 1:
        raise ValueError(
            f"sample_weight of shape {tuple(weights.shape)}: expected one weight for each example"
        )
    return losses * tf.reshape(tf.cast(weights, losses.dtype), tf.shape(losses))


def _zero_like(gradient: Any, shape: tuple[int, ...]) -> Callable[[], Any]:
    """A function that makes a zero gradient of the same dtype and kind. `shape` is its variable's:
    a trace does not always know that of the gradient."""
    if gradient is None:
        return lambda: None
    if not isinstance(gradient, tf.IndexedSlices):
        dense_dtype = gradient.dtype
        return lambda: tf.zeros(shape, dense_dtype)
    row, dtype = shape[1:], gradient.values.dtype
    index_dtype = gradient.indices.dtype
    size_dtype = gradient.dense_shape.dtype
    return lambda: tf.IndexedSlices(
        tf.zeros([0, *row], dtype),
        tf.zeros([0], index_dtype),
        tf.constant(shape, size_dtype),
    )
