"""The learning rate: scaled with the global batch, warmed up, then constant, cosine or in steps."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf


def scaled_peak(rate: float, scaling: str, global_batch: int, reference_batch: int) -> float:
    """The peak for `global_batch`, given the right one for `reference_batch`.

    linear: Goyal et al. 2017 (arXiv:1706.02677); sqrt: Krizhevsky 2014 (arXiv:1404.5997).
    """
    ratio = global_batch / reference_batch
    return rate * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[scaling]


@keras.saving.register_keras_serializable(package="lockstep")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0 to `peak` in `warmup_steps`, then the given shape up to `total_steps`.

    Args:
        peak: the highest learning rate.
        shape: "constant", "cosine" (to 0 at total_steps, arXiv:1608.03983), or "step".
        warmup_steps, total_steps: optimizer steps.
        boundaries: for "step": the steps at which the rate is multiplied by `factor`.
    """

    def __init__(
        self,
        peak: float,
        shape: str,
        warmup_steps: int,
        total_steps: int,
        boundaries: Sequence[int] = (),
        factor: float = 0.1,
    ):
        self.peak = peak
        self.shape = shape
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.boundaries = list(boundaries)
        self.factor = factor

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """The rate of optimizer step `step` (int or int tensor ()), float32 ()."""
        step = tf.cast(step, tf.float32)
        # Step 0 already learns: the ramp ends at the peak after warmup_steps steps.
        warmup = tf.minimum(1.0, (step + 1.0) / max(1, self.warmup_steps))
        if self.shape == "cosine":
            span = max(1, self.total_steps - self.warmup_steps)
            done = tf.clip_by_value((step - self.warmup_steps) / span, 0.0, 1.0)
            shape = 0.5 * (1.0 + tf.cos(math.pi * done))
        elif self.shape == "step":
            passed = tf.add_n([tf.cast(step >= b, tf.float32) for b in self.boundaries])
            shape = tf.pow(self.factor, passed)
        else:
            shape = tf.constant(1.0)
        return self.peak * warmup * shape

    def get_config(self) -> dict:
        """Keras' serialisation."""
        return dict(vars(self))
