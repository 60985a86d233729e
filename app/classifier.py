"""Classifier: a network with the one training step and the one test step of Lockstep.

Knows neither Horovod nor how many workers there are: the optimizer does.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from app.data.batches import Batch
from app.learning.early_stopping import EarlyStopping
from app.learning.nothing import Nothing
from app.learning.objective import Objective
from app.learning.task import Task
from app.learning.weight_average import WeightAverage
from app.state import Kind, state_variables


class Classifier(keras.Model):
    """Train `network`, which gives logits (B, classes), on integer labels (B,); or one that gives a
    list of such logits on labels (B, heads), of which those that are missing are -1.

    The network's inputs are a tensor or a dict of tensors, with one row for each example.
    `fit()` takes batches `(inputs, labels)`, `(inputs, labels, sample_weight)` or `Batch`; compile
    it with an `app.distributed.DistributedOptimizer`. Batches may differ in size between ranks, and
    even be empty, as long as all ranks have the same number of them.

    `tasks`: what each head learns; None: one label, with this `label_smoothing` and these
    `class_weights`, see `Task`. Neither is part of a test loss. `sample_weight` is, as everywhere
    in Keras, and so is the `class_weight` of `fit()`, which becomes one: the loss is the mean over
    examples, not over weights, of weight times cross-entropy. Accuracy is not weighted.

    With one head each rank takes the mean over its examples, and the optimizer weighs ranks by
    their number. With several, each of which some examples lack, that number says too little: a
    rank divides by how many labels all ranks have in this step, and all ranks weigh the same
    (`normalises`). So it does if the network has layers that normalise over all ranks (`joint`, see
    app/distributed/batch_norm.py), whose passes no rank may leave out.
    """

    # Horovod's collectives cannot be compiled by XLA; this turns off Keras' jit_compile="auto".
    supports_jit = False

    def __init__(
        self,
        network: keras.Model,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        name: str = "classifier",
        tasks: Sequence[Task] | None = None,
    ):
        super().__init__(name=name)
        self.network = network
        weights = None if class_weights is None else tuple(class_weights)
        only = Task(label_smoothing=label_smoothing, class_weights=weights)
        self.objective = Objective(tasks or [only])
        self.normalises = self.objective.has_several or bool(self.joint)
        # Of a run that wants them; whoever builds the classifier sets them.
        self.weight_average: WeightAverage | None = None
        self.early_stopping: EarlyStopping | None = None
        self._nothing = Nothing()
        self._is_never_empty = False
        self.built = True

    def compile(self, optimizer: Any, **options: Any) -> None:
        """Keras' compile; the loss and the metrics are the classifier's own."""
        if not hasattr(optimizer, "settle"):
            raise ValueError(
                f"optimizer={optimizer!r}: expected app.distributed.DistributedOptimizer(...), "
                "which also works with one process"
            )
        if self.joint and not optimizer.sums_each_step:
            raise ValueError(
                f"strategy={optimizer.strategy_name!r} lets models differ between ranks, and layer "
                f"'{self.joint[0].name}' normalises over all of them: use strategy='every_step', "
                "or a BatchNorm of each rank"
            )
        self._nothing.forget()  # other variables may learn now
        super().compile(optimizer=optimizer, **options)

    @property
    def joint(self) -> list[Any]:
        """The layers that normalise over all ranks."""
        return [one for one in self.network._flatten_layers() if hasattr(one, "begin_pass")]

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
        return [*self.objective.loss_means, *self.objective.accuracies]

    @property
    def beside(self) -> list[Any]:
        """What has `variables` that are state of a run, but not of the network."""
        return [one for one in (self.weight_average, self.early_stopping) if one is not None]

    def get_metrics_result(self) -> dict[str, Any]:
        """The results of the metrics; with several heads also those of all together."""
        results = {metric.name: metric.result() for metric in self.metrics}
        return self.objective.with_totals(results)

    @property
    def classes(self) -> list[int]:
        """The number of classes of each head."""
        shapes = self.network.output_shape
        return [shape[-1] for shape in (shapes if isinstance(shapes, list) else [shapes])]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Logits float32 (B, classes), or a list of them, one for each head."""
        return self.network(inputs, training=training)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One update from this rank's part of a global batch.

        Raises ValueError for a tuple that `fit()` would not pass to a classifier.
        """
        self.optimizer.check_settles()
        batch, weights = unpacked(data)
        examples = tf.shape(batch.labels)[0]
        counts = self._counts_of(batch) if self.normalises else None
        loss, losses, logits, gradients = self.learn(batch, weights, counts)
        weight, total = self._weights_of(examples, batch.total, counts)
        self.optimizer.apply(
            gradients, self.trainable_variables, weight=weight, total_weight=total, loss=loss
        )
        self._end_passes()
        if self.weight_average is not None:
            self.weight_average.follow(self.optimizer.iterations, self.optimizer.are_equal)
        tf.cond(
            tf.math.is_finite(loss),
            lambda: self._counted(losses, logits, batch.labels),
            self.get_metrics_result,
        )
        return self.get_metrics_result()

    def learn(
        self, batch: Batch, weights: Any = None, counts: Any = None
    ) -> tuple[tf.Tensor, list[tf.Tensor], Any, list[Any]]:
        """Forward and backward: (what this rank minimises, the losses of examples by head, logits,
        gradients); in the graph of a step. Changes no variable but the moving statistics of
        BatchNorm, and these not where a number is not finite.

        `weights`: of the examples, or None; `counts`: of the labels of each head in the whole step,
        float32 (heads,); None for the mean over these examples.
        """

        def learn():
            with tf.GradientTape() as tape:
                logits = self._logits_of(batch)
                losses = [weighed(one, weights) for one in self.objective.losses(batch, logits)]
                loss = self._loss_of(losses, counts)
                objective = self.optimizer.scale_loss(loss)
            return loss, losses, logits, tape.gradient(objective, self.trainable_variables)

        statistics = self._statistics()
        loss, losses, logits, gradients = self._unless_empty(learn, batch)
        self._undo_statistics(statistics, loss)
        return loss, losses, logits, gradients

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Losses and accuracies of one batch, with what training adds (dropout) turned off."""
        batch, weights = unpacked(data)
        logits = self(batch.inputs, training=False)
        losses = self.objective.test_losses(batch.labels, logits)
        return self._counted([weighed(one, weights) for one in losses], logits, batch.labels)

    def _logits_of(self, batch: Batch) -> Any:
        """Logits in training. Where layers normalise over all ranks, one without examples takes
        part with a row of zeros that counts nothing."""
        rows, row_weights, inputs = batch.labels.shape[0], None, batch.inputs
        may_be_empty = not (rows or (rows is None and self._is_never_empty))
        if self.joint and may_be_empty:
            examples = tf.shape(batch.labels)[0]
            missing = 1 - tf.minimum(examples, 1)
            row_weights = tf.pad(tf.ones([examples]), [[0, missing]])
            inputs = tf.nest.map_structure(
                lambda one: tf.pad(one, [[0, missing], *[[0, 0]] * (len(one.shape) - 1)]), inputs
            )
        for layer in self.joint:
            layer.begin_pass(row_weights)
        logits = self(inputs, training=True)
        if row_weights is None:
            return logits
        return tf.nest.map_structure(lambda of_head: of_head[:examples], logits)

    def _end_passes(self) -> None:
        """Let layers that normalise over all ranks move their statistics, once all exchanges are
        done: one that fails leaves those of the last whole step."""
        for layer in self.joint:
            updated = tf.convert_to_tensor(self.optimizer.iterations.value)
            with tf.control_dependencies([updated]):
                layer.end_pass()

    def _counts_of(self, batch: Batch) -> tf.Tensor:
        """How many labels of each head count in this step, float32 (heads,): of all ranks, or of
        this one's batch where ranks take steps of their own."""
        own = self.objective.counts(batch)
        if not self.optimizer.sums_each_step:
            return own
        if batch.counts is not None:
            return tf.cast(batch.counts, tf.float32)
        return self.optimizer.sum_counts(own)

    def _loss_of(self, losses: Sequence[tf.Tensor], counts: tf.Tensor | None) -> tf.Tensor:
        """What this rank minimises, float32 ()."""
        if counts is None:
            return tf.reduce_mean(losses[0])
        loss = self.objective.mean(losses, counts)
        return loss * tf.cast(self.optimizer.shares, loss.dtype)

    def _weights_of(self, examples: tf.Tensor, total: Any, counts: Any) -> tuple[Any, Any]:
        """(what this rank's gradients weigh, what those of all do); nothing if no label counts."""
        if counts is None or not self.optimizer.sums_each_step:
            return examples, total
        any_counts = tf.cast(tf.reduce_any(counts > 0), tf.float32)
        return any_counts, any_counts * self.optimizer.ranks

    def _counted(self, losses: Any, logits: Any, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """The metrics, this batch included."""
        self.objective.count(losses, logits, labels)
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

    def _unless_empty(self, learn: Callable, batch: Batch) -> tuple[Any, Any, Any, list[Any]]:
        """`learn()`, or zeros of the same structure if this rank has no examples.

        The forward pass is skipped then: the mean of nothing is NaN, and BatchNorm would take it
        into its statistics. But never where it is one of all ranks.
        """
        if self.joint:
            return learn()
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

    def _zeros(self, learn: Callable) -> tuple[tf.Tensor, Any, Any, list[Any]]:
        """What `learn` returns for no examples."""
        classes = self.classes if isinstance(self.network.output_shape, list) else self.classes[0]
        return self._nothing.like(learn, self.trainable_variables, classes)


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
