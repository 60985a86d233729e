"""BatchNorm over the examples of all ranks, where Keras' own normalises with those of each rank.

`synchronised(network)` puts it into a network, which knows nothing of it. The loss must be
normalised over all ranks before it is differentiated, as that of `Classifier` then is: what all
ranks' losses say of the statistics is summed in the backward pass.
"""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

import models.layers
from app.distributed.horovod_world import current_world
from app.distributed.world import World
from app.state import Kind, declare


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of the rows of all ranks: mean and variance, (C,), and of how many numbers each is, ()."""

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor


@dataclasses.dataclass
class _Pass:
    """A forward pass: how much each row counts, and what statistics it has found."""

    row_weights: tf.Tensor | None = None
    found: Statistics | None = None
    is_held: bool = False  # the moving statistics wait for its end


@keras.saving.register_keras_serializable(package="lockstep")
class BatchNormalization(models.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of the last axis that in training takes mean and variance
    from the rows of all ranks (Peng et al. 2017, arXiv:1711.07240, section 3.3).

    One collective in the forward pass and one in the backward pass, named after the layer: all
    ranks run both in every step, also one without examples, see `begin_pass`. Statistics are
    float32, or float64 where the inputs are, whatever the layer computes in. The moving ones have
    the same bits on all ranks. When frozen, and in inference, it is as the networks' own. Its name
    is Keras', since Keras' files of weights go by the names of classes.

    `world`: the ranks; default: those of the running Horovod. Other arguments are those of Keras.
    Raises ValueError for another axis than the last, for `renorm`, and for a mask in training.
    """

    def __init__(self, *args: Any, world: World | None = None, **options: Any):
        super().__init__(*args, **options)
        if self.renorm:
            raise ValueError(f"'{self.name}': renorm does not go with statistics of all ranks")
        self.world = world or current_world()
        self._pass = _Pass()

    def build(self, input_shape: Any) -> None:
        """Create Keras' variables."""
        if self.axis not in (-1, len(input_shape) - 1):
            raise ValueError(f"'{self.name}' has axis {self.axis}: expected the last one")
        super().build(input_shape)
        for variable in (self.moving_mean, self.moving_variance):
            declare(variable, Kind.REPLICATED)

    def begin_pass(self, row_weights: tf.Tensor | None) -> None:
        """How much each row counts in the next forward pass in training, float (B,); None: 1 each.

        A row that counts 0 may hold anything: it has no part in statistics and gradients. The
        moving statistics stay as they are until `end_pass`.
        """
        self._pass = _Pass(row_weights, is_held=True)

    def end_pass(self) -> None:
        """Move the moving statistics as the pass says, unless no row counts in it or a number is
        not finite: the same on every rank."""
        found, self._pass = self._pass.found, _Pass()
        if found is None:  # frozen
            return
        is_fine = (found.count > 0) & tf.reduce_all(tf.math.is_finite(found.mean + found.variance))
        news = (self.moving_mean, found.mean), (self.moving_variance, found.variance)
        for variable, new in news:
            old = tf.convert_to_tensor(variable.value)
            moved = old * self.momentum + tf.cast(new, old.dtype) * (1.0 - self.momentum)
            variable.assign(tf.where(is_fine, moved, old))

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        """(B, ..., C) -> (B, ..., C); a collective in training."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        if mask is not None:
            raise ValueError(f"'{self.name}' takes no mask in training")
        x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        weights, name = self._pass.row_weights, f"batch_norm.{self.name}"
        if weights is not None:
            weights = tf.reshape(tf.cast(weights, x.dtype), [-1, *[1] * (len(x.shape) - 1)])
        found = statistics(tf.stop_gradient(x), weights, self.world, name)
        ones = tf.ones(x.shape[-1:], x.dtype)
        gamma = tf.cast(self.gamma, x.dtype) if self.scale else ones
        beta = tf.cast(self.beta, x.dtype) if self.center else tf.zeros_like(ones)
        outputs = _normalised(x, gamma, beta, found, weights, self.epsilon, self.world, name)
        self._pass.found = found
        if not self._pass.is_held:
            self.end_pass()
        return tf.cast(outputs, self.compute_dtype)


def statistics(x: tf.Tensor, weights: tf.Tensor | None, world: World, name: str) -> Statistics:
    """Those of x, float (B, ..., C), over all axes but the last and over all ranks; a collective.

    `weights`: of the rows, float (B, 1, ..., 1). Each rank sums squares around its own mean, and
    the sums travel as float64, so that a mean far from 0 costs no digits.
    """
    axes, channels = list(range(len(x.shape) - 1)), x.shape[-1]
    shape = tf.shape(x, tf.int64)
    rows = shape[0] if weights is None else tf.reduce_sum(weights)
    count = tf.cast(rows, tf.float64) * tf.cast(tf.reduce_prod(shape[1:-1]), tf.float64)
    sums = tf.reduce_sum(_times(x, weights), axes)
    mean = tf.math.divide_no_nan(sums, tf.cast(count, x.dtype))
    around = tf.reduce_sum(_times(tf.math.squared_difference(x, mean), weights), axes)
    sums, around = tf.cast(sums, tf.float64), tf.cast(around, tf.float64)
    squares = around + tf.math.divide_no_nan(sums**2, count)
    total = world.allreduce(tf.concat([sums, squares, [count]], axis=0), f"{name}.forward")
    count = total[-1]
    mean = tf.math.divide_no_nan(total[:channels], count)
    square = tf.math.divide_no_nan(total[channels:-1], count)
    variance = tf.maximum(square - mean**2, 0.0)
    return Statistics(*(tf.cast(one, x.dtype) for one in (mean, variance, count)))


def _normalised(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    found: Statistics,
    weights: tf.Tensor | None,
    epsilon: float,
    world: World,
    name: str,
) -> tf.Tensor:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, float (B, ..., C); beta in rows that
    count 0.

    Its gradient, a collective, is that of the sum of all ranks' losses: for x through the
    statistics too, for gamma and beta this rank's part of it.
    """
    axes = list(range(len(x.shape) - 1))
    by = tf.math.rsqrt(found.variance + epsilon)
    counts = None if weights is None else weights > 0

    @tf.custom_gradient
    def normalised(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            upstream = _where(counts, upstream, 0.0)
            normal = _where(counts, (x - found.mean) * by, 0.0)
            of_beta = tf.reduce_sum(upstream, axes)
            of_gamma = tf.reduce_sum(upstream * normal, axes)
            total = world.allreduce(tf.concat([of_beta, of_gamma], axis=0), f"{name}.backward")
            of_mean, of_deviation = tf.split(tf.math.divide_no_nan(total, found.count), 2)
            through = _times(of_mean + normal * of_deviation, weights)
            return gamma * by * (upstream - through), of_gamma, of_beta

        scale = gamma * by
        return _where(counts, x * scale + (beta - found.mean * scale), beta), gradient

    return normalised(x, gamma, beta)


def _times(x: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """x times the weights of its rows; 0 where these are 0, whatever is in x."""
    return x if weights is None else tf.math.multiply_no_nan(x, weights)


def _where(counts: tf.Tensor | None, x: tf.Tensor, other: Any) -> tf.Tensor:
    """x, but something else in rows that do not count."""
    return x if counts is None else tf.where(counts, x, tf.cast(other, x.dtype))


def synchronised(network: keras.Model, world: World | None = None) -> keras.Model:
    """A copy of a functional or sequential network, with the same weights and paths of variables,
    whose BatchNorm layers are those of this file.

    `world`: the ranks; default: those of the running Horovod. Raises ValueError if there is no
    BatchNorm in it, or one that they cannot replace.
    """
    replaced = []

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if not isinstance(layer, keras.layers.BatchNormalization):
            return type(layer).from_config(config)
        replaced.append(layer.name)
        return BatchNormalization.from_config({**config, "world": world})

    copy = keras.models.clone_model(network, clone_function=copied, recursive=True)
    if not replaced:
        raise ValueError(f"network '{network.name}' has no BatchNorm")
    copy.set_weights(network.get_weights())
    return copy
