"""The learning rate: scaled with the global batch, warmed up, then constant, falling or in steps.

It depends on how much of the training is done, in epochs, and never on the optimizer's step count:
a step is a different part of an epoch at another world size or batch size, and a run may be resumed
with either.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from app.config import Optimizer

# Adam's first steps with empty moments would be several times too long at the full rate.
RESTART_EPOCHS = 0.1
# Of "one_cycle": shares of the run, and of the peak there, with straight lines between them.
ONE_CYCLE = (0.0, 0.45, 0.9, 1.0), (0.04, 1.0, 0.04, 0.0)


def scaled_peak(wanted: Optimizer, global_batch: int) -> float:
    """The peak for `global_batch`, given the one for the reference batch.

    linear: Goyal et al. 2017 (arXiv:1706.02677); sqrt: Krizhevsky 2014 (arXiv:1404.5997).
    """
    ratio = global_batch / wanted.reference_batch_size
    factor = {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}
    return wanted.learning_rate * factor[wanted.learning_rate_scaling]


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0 to `peak` in `warmup_epochs`, then the given shape up to `epochs`.

    `Loop` says before each step how far training is (`move_to`); the optimizer reads the rate for
    that place, whatever its own step count.

    Args:
        peak: the highest learning rate.
        shape: "constant", "cosine" (to 0 after `epochs`, arXiv:1608.03983), "linear" (to 0 too),
            "step", or "one_cycle" (Smith 2018, arXiv:1803.09820: up and down in straight lines of
            the same length, then to 0; the momentum stays as it is).
        warmup_epochs, epochs: passes over the training data; may be fractions.
        boundaries: for "step": the epochs at which the rate is multiplied by `factor`.
        restart: an epoch at which the optimizer begins anew, and rises for `RESTART_EPOCHS` from 0
            to what the rate is by then; 0 if there is none.
    """

    def __init__(
        self,
        peak: float,
        shape: str,
        warmup_epochs: float,
        epochs: float,
        boundaries: Sequence[float] = (),
        factor: float = 0.1,
        restart: int = 0,
    ):
        self.peak = peak
        self.shape = shape
        self.warmup_epochs = warmup_epochs
        self.epochs = epochs
        self.boundaries = list(boundaries)
        self.factor = factor
        self.restart = restart
        self._given: tf.Tensor | None = None
        # Not a Keras variable: it follows from the place in the run, so it is not saved state.
        with tf.init_scope(), tf.device("CPU"):
            self._now = tf.Variable(float(peak), trainable=False)

    def rate(self, done: float, after: float) -> float:
        """The rate of the step that takes training from `done` to `after` epochs."""
        # The first step already learns, and the last step of warm-up reaches the peak.
        warmup = min(1.0, after / self.warmup_epochs) if self.warmup_epochs else 1.0
        shape = 1.0
        if self.restart and done >= self.restart:
            warmup = min(warmup, (after - self.restart) / RESTART_EPOCHS)
        span = self.epochs - self.warmup_epochs
        share = min(1.0, max(0.0, (done - self.warmup_epochs) / span)) if span > 0 else 0.0
        if self.shape == "cosine":
            shape = 0.5 * (1.0 + math.cos(math.pi * share))
        elif self.shape == "linear":
            shape = 1.0 - share
        elif self.shape == "one_cycle":
            shape = float(np.interp(share, *ONE_CYCLE))
        elif self.shape == "step":
            shape = self.factor ** sum(done >= boundary for boundary in self.boundaries)
        return self.peak * warmup * shape

    def move_to(self, done: float, after: float) -> None:
        """The next step takes training from `done` to `after` epochs."""
        # Not as Python's float: TensorFlow keeps every one that it has met for ever.
        self._now.assign(np.array(self.rate(done, after), np.float32))

    @contextlib.contextmanager
    def given(self, rate: tf.Tensor) -> Iterator[None]:
        """What is traced in the block learns at this rate, float32 (), wherever training is."""
        self._given = rate
        try:
            yield
        finally:
            self._given = None

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """The rate for the place that `move_to` named, float32 (); `step` does not matter."""
        return tf.identity(self._now if self._given is None else self._given)

    def get_config(self) -> dict:
        """Keras' serialisation."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}
