"""A moving average of a model's weights, which often does better than the weights themselves.

Polyak and Juditsky 1992; as in Tarvainen and Valpola 2017 (arXiv:1703.01780). Knows Keras, and
neither workers nor files.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.state import Kind, declare

WARM_UP = 10.0


def kept_share(before: tf.Tensor, now: tf.Tensor, horizon: float) -> tf.Tensor:
    """What stays of an average that was made `before`, float64 (); both are places in a run, as
    examples trained on since its beginning.

    exp(-(now - before) / horizon): the same, however many steps the examples between them are cut
    into. At first it is less, (before / now) ** 10: an average over the last tenth of the run so
    far, or the weights of the beginning would stay in it for several horizons. That does not depend
    on steps either, and the first weights of all leave no trace.
    """
    before, now = tf.cast(before, tf.float64), tf.cast(now, tf.float64)
    return tf.minimum(
        tf.exp((before - now) / horizon), tf.math.divide_no_nan(before, now) ** WARM_UP
    )


class WeightAverage:
    """The averages of a network's weights, and where in the run each was made.

    Weights are averaged after each update that leaves all ranks with the same ones: that is every
    step, or the end of a round; not after a step that was skipped. Statistics of BatchNorm differ
    between ranks until a commit point, so theirs are averaged there. So all of this has the same
    bits on every rank: it is replicated, guarded and saved. A run that is resumed with an average,
    and was begun without, begins it there.

    `horizon`: in examples. What does not learn, as `trainable` says now, is left out.
    """

    def __init__(self, network: keras.Model, horizon: float):
        self.horizon = float(horizon)
        self._weights = network.trainable_variables
        self._statistics = [
            variable
            for layer in network._flatten_layers()
            if hasattr(layer, "moving_mean") and layer.trainable
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        with keras.name_scope("average"):
            self._of_weights = [_like(one) for one in self._weights]
            self._of_statistics = [_like(one) for one in self._statistics]
            # On the CPU, where the condition of an update is wanted.
            with tf.device("CPU"):
                self._made, self._statistics_made, self._updates = (
                    _kept((), "int64", name)
                    for name in ("made_at_example", "statistics_made_at_example", "updates")
                )
        # Not a Keras variable: it follows from the place in the run, so it is not saved state.
        with tf.init_scope(), tf.device("CPU"):
            self._now = tf.Variable(0, dtype=tf.int64, trainable=False)

    @property
    def variables(self) -> list[keras.Variable]:
        """All that is state."""
        counts = [self._made, self._statistics_made, self._updates]
        return [*self._of_weights, *self._of_statistics, *counts]

    @property
    def is_there(self) -> bool:
        """Whether there has been an update yet."""
        return int(self._made.numpy()) > 0

    def move_to(self, examples: int) -> None:
        """The next step takes training to this place."""
        self._now.assign(np.array(examples, np.int64))

    def follow(self, updates: Any, are_equal: Any = True) -> None:
        """Average the weights, if they have been updated since the last time; in the graph of a
        step, or outside.

        `updates`: how many the optimizer has made, an integer (); `are_equal`: whether all ranks
        have the same weights now, bool (). Both are the same on every rank.
        """
        if are_equal is False:
            return
        with tf.device("CPU"):
            updates = tf.cast(tf.convert_to_tensor(updates), tf.int64)
            is_due = tf.not_equal(updates, self._updates.value) & are_equal

        def take() -> bool:
            self._take(self._weights, self._of_weights, self._made)
            self._updates.assign(updates)
            return True

        tf.cond(is_due, take, lambda: True)

    def settled(self, updates: Any) -> None:
        """All ranks have one state, statistics included: a commit point."""
        self.follow(updates)
        if self._statistics:
            self._take(self._statistics, self._of_statistics, self._statistics_made)

    def _take(
        self,
        variables: Sequence[keras.Variable],
        averages: Sequence[keras.Variable],
        made: keras.Variable,
    ) -> None:
        with tf.device("CPU"):
            now = tf.identity(self._now)
            share = 1.0 - kept_share(made.value, now, self.horizon)
        for variable, average in zip(variables, averages, strict=True):
            apart = tf.convert_to_tensor(variable.value) - average.value
            average.assign_add(tf.cast(share, apart.dtype) * apart)
        made.assign(now)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """In the block the network has the averages for its weights."""
        variables = [*self._weights, *self._statistics]
        kept = [tf.identity(one.value) for one in variables]
        self.put()
        try:
            yield
        finally:
            for variable, value in zip(variables, kept, strict=True):
                variable.assign(value)

    def put(self) -> None:
        """Give the network the averages for its weights, for good; nothing without an update."""
        if self.is_there:
            for variable, average in zip(self._weights, self._of_weights, strict=True):
                variable.assign(average.value)
        if int(self._statistics_made.numpy()) > 0:
            for variable, average in zip(self._statistics, self._of_statistics, strict=True):
                variable.assign(average.value)


def _like(variable: keras.Variable) -> keras.Variable:
    return _kept(variable.shape, variable.dtype, variable.path.replace("/", "_"))


def _kept(shape: Sequence[int], dtype: str, name: str) -> keras.Variable:
    variable = keras.Variable(
        initializer="zeros", shape=shape, dtype=dtype, trainable=False, name=name
    )
    return declare(variable, Kind.REPLICATED, optional=True)
