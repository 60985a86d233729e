"""LARS: SGD in which every weight matrix has a rate of its own, for large batches. Knows Keras
alone."""

from typing import Any

import keras
import tensorflow as tf

EXCLUDED = ("bias", "gamma", "beta")  # in the names of variables: biases, and those of BatchNorm


@keras.saving.register_keras_serializable(package="lockstep")
class Lars(keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv:1708.03888).

    For the weights w of a layer and their gradient g, with the rate a, the momentum m, the decay b
    and the trust t: local = t |w| / (|g| + b |w|); v = m v + a local (g + b w); w = w - v. Where w
    or g is all zeros, local is 1. Biases and the parameters of BatchNorm take steps of SGD with
    momentum, without decay, as is usual. So their rate is 1 / t times what it is for a layer whose
    gradient is as large as its weights.

    What it computes is in float32 or wider, whatever the dtype of gradients.

    Args:
        learning_rate: a; a float or a schedule. Values of 1 to 30 are common, since t is small.
        momentum: m, from 0 to 1.
        weight_decay: b, part of the gradient and so not decoupled; None for none.
        trust: t; the paper has 0.001.
        options: Keras' own, such as `global_clipnorm` and `name`.
    """

    def __init__(
        self,
        learning_rate: Any = 1.0,
        momentum: float = 0.9,
        weight_decay: float | None = None,
        trust: float = 0.001,
        name: str = "lars",
        **options: Any,
    ):
        super().__init__(learning_rate, name=name, **options)  # which would decouple the decay
        self.momentum = momentum
        self.decay = weight_decay or 0.0
        self.trust = trust
        self.exclude_from_weight_decay(var_names=list(EXCLUDED))

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the velocities."""
        if not self.built:
            super().build(variables)
            self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step; see the class."""
        velocity = self._velocities[self._get_variable_index(variable)].value
        weights, gradient = _wide(variable), _wide(gradient)
        gradient = tf.cast(gradient, weights.dtype)
        step = tf.cast(learning_rate, weights.dtype) * gradient
        if self._use_weight_decay(variable):
            norm, of_gradient = tf.norm(weights), tf.norm(gradient)
            local = self.trust * norm / (of_gradient + self.decay * norm)
            local = tf.where((norm > 0) & (of_gradient > 0), local, 1.0)
            decayed = gradient + self.decay * weights
            step = tf.cast(learning_rate, weights.dtype) * local * decayed
        new = self.momentum * _wide(velocity) + step
        self.assign(velocity, new)
        self.assign_sub(variable, new)

    def get_config(self) -> dict[str, Any]:
        """Keras' serialisation."""
        own = {"momentum": self.momentum, "weight_decay": self.decay, "trust": self.trust}
        return {**super().get_config(), **own}


def _wide(value: Any) -> tf.Tensor:
    """A tensor of at least 32 bits; rows that come twice are added up."""
    tensor = tf.convert_to_tensor(value)
    return tensor if tensor.dtype.size >= 4 else tf.cast(tensor, tf.float32)
