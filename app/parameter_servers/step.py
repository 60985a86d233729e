"""The step of a worker: traced by the coordinator, run in the worker's process.

    batch by its indices -> forward, backward -> servers update their variables -> how it went

Variables and the optimizer's slots are on the servers. The worker reads each variable when its
layer needs it, and each gradient goes to the server that holds its variable, which does the update.
Nobody locks anything: another worker's update may come in between.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from app.classifier import Classifier
from app.data.batches import Batch, spec_of
from app.distributed.signals import LOSS
from app.parameter_servers.calls import call
from app.parameter_servers.serve import BATCH, DONE
from app.schedule import Schedule


class Result(NamedTuple):
    """How a step went. `loss`: the mean over its `examples`, of which `hits` were right; `places`:
    the sum of their places in the epoch; `bad`: what was not finite, of `names_of`; -1: nothing."""

    worker: int
    input_s: float
    seconds: float
    loss: float
    hits: float
    examples: int
    places: int
    bad: int

    @classmethod
    def of(cls, numbers: np.ndarray) -> "Result":
        """From float64 (8,)."""
        worker, input_s, seconds, loss, hits, examples, places, bad = numbers.tolist()
        return cls(int(worker), input_s, seconds, loss, hits, int(examples), int(places), int(bad))


def names_of(classifier: Classifier) -> list[str]:
    """What may be not finite, in the order of `Result.bad`."""
    return [LOSS, *(variable.path for variable in classifier.trainable_variables)]


def build_step(classifier: Classifier, schedule: Schedule, like: Batch, about: str) -> Any:
    """The compiled step: (rows int64 (n,), places int64 (n,), epoch int64 (), rate float32 ()) ->
    float64 (8,), a `Result`.

    Trace it outside the strategy's scope: TensorFlow would not let the optimizer step inside of a
    condition there.

    Args:
        classifier: compiled, with its variables on the servers.
        schedule: the optimizer's.
        like: any batch of the run.
        about: what a worker must know of the run, JSON; see `serve.Worker.prepare`.
    """
    specs = spec_of(like._replace(total=None), None)
    flat = [spec for spec in tf.nest.flatten(specs) if spec is not None]

    def read(rows: tf.Tensor, places: tf.Tensor, epoch: tf.Tensor) -> Batch:
        tensors = call(BATCH, [about, rows, places, epoch], [spec.dtype for spec in flat])
        for tensor, spec in zip(tensors, flat, strict=True):
            tensor.set_shape(spec.shape)
        found = iter(tensors)
        filled = [None if spec is None else next(found) for spec in tf.nest.flatten(specs)]
        return tf.nest.pack_sequence_as(specs, filled)

    def step(rows: tf.Tensor, places: tf.Tensor, epoch: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        batch = read(rows, places, epoch)
        with classifier.never_empty():
            loss, _, logits, gradients = classifier.learn(batch)
        bad, updated = _update(classifier, schedule, loss, gradients, rate)
        with tf.control_dependencies([updated]):
            (times,) = call(DONE, [], [tf.float64])
        right = tf.equal(tf.argmax(logits, axis=1), batch.labels)
        found = (loss, tf.math.count_nonzero(right), tf.size(rows), tf.reduce_sum(places), bad)
        numbers = tf.stack([tf.cast(one, tf.float64) for one in found])
        return tf.concat([tf.ensure_shape(times, [3]), numbers], axis=0)

    whole = tf.TensorSpec([None], tf.int64)
    signature = (whole, whole, tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.float32))
    return tf.function(step, autograph=False).get_concrete_function(*signature)


def _update(
    classifier: Classifier, schedule: Schedule, loss: tf.Tensor, gradients: Any, rate: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """(what is not finite, int64 (), see `Result`; a tensor that is there after the update). With
    numbers that are not finite nothing is updated."""
    dense = [None if one is None else tf.convert_to_tensor(one) for one in gradients]
    # Through the sum of its elements, as in app/distributed/signals.py.
    sums = [tf.constant(0.0) if one is None else tf.reduce_sum(one) for one in dense]
    finite = tf.stack([tf.math.is_finite(tf.cast(one, tf.float32)) for one in (loss, *sums)])
    fine = tf.reduce_all(finite)
    bad = tf.where(fine, tf.constant(-1, tf.int64), tf.argmin(tf.cast(finite, tf.int32)))

    def update() -> bool:
        with schedule.given(rate):
            classifier.optimizer.inner_optimizer.apply(dense, classifier.trainable_variables)
        return True

    return bad, tf.cond(fine, update, lambda: True)
