"""The moving average of weights as state: failures, checkpoints, and validation with it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.checkpoints.checkpoint import Checkpoints
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.replicas import settle
from app.distributed.world import World
from app.learning.weight_average import WeightAverage
from app.state import Kind, TrainState, state_variables
from tests.single.learning.averaging import HORIZON, averaging
from tests.single.test_loop import EXAMPLES, Memory, Watch


class Fails(World):
    """An exchange of gradients that fails, as when a rank is lost."""

    def __init__(self) -> None:
        self.is_down = False

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        def exchange(value: np.ndarray) -> np.ndarray:
            if self.is_down and "signals" not in name:
                raise RuntimeError("HorovodAllreduce has failed")
            return value

        return tf.ensure_shape(tf.numpy_function(exchange, [tensor], tensor.dtype), tensor.shape)


def test_a_step_whose_exchange_fails_leaves_what_was(make_classifier, batch) -> None:
    """Live variables are then the state of the last whole step, for who recovers."""
    world = Fails()
    classifier = make_classifier(batch_norm=False, dropout=0.0)
    optimizer = DistributedOptimizer(keras.optimizers.Adam(0.1), world=world, bucket_mb=4e-5)
    classifier.compile(optimizer)
    optimizer.build(classifier.trainable_variables)
    average = classifier.weight_average = WeightAverage(classifier.network, HORIZON)
    step = tf.function(classifier.train_step, autograph=False)
    rows = tuple(map(tf.constant, batch))
    average.move_to(8)
    step(rows)
    assert average.is_there and optimizer.is_plain
    kept = [entry.variable.numpy() for entry in state_variables(classifier, optimizer)]
    world.is_down = True
    average.move_to(16)
    with pytest.raises(tf.errors.OpError, match="HorovodAllreduce has failed"):
        step(rows)
    now = [entry.variable.numpy() for entry in state_variables(classifier, optimizer)]
    for entry, one, other in zip(state_variables(classifier, optimizer), kept, now, strict=True):
        if "/loss/" not in entry.path:
            np.testing.assert_array_equal(one, other, err_msg=entry.path)


def test_all_of_it_is_replicated_state_that_a_checkpoint_may_lack(make_classifier) -> None:
    classifier = make_classifier()
    before = {entry.path for entry in state_variables(classifier)}
    classifier.weight_average = WeightAverage(classifier.network, HORIZON)
    added = [e for e in state_variables(classifier) if e.path not in before]
    assert {(e.kind, e.optional) for e in added} == {(Kind.REPLICATED, True)}
    weights = {v.path for v in classifier.trainable_variables}
    statistics = {"norm/moving_mean", "norm/moving_variance"}
    averaged = {f"average/{path.replace('/', '_')}" for path in weights | statistics}
    counts = {"made_at_example", "statistics_made_at_example", "updates"}
    assert {e.path for e in added} == averaged | {f"average/{name}" for name in counts}


def test_a_run_may_be_resumed_with_it_or_without(make_classifier, batch, tmp_path) -> None:
    rows, checkpoints = tuple(map(tf.constant, batch)), Checkpoints(tmp_path, 9)

    def state(averages: bool) -> TrainState:
        classifier = make_classifier()
        if averages:
            classifier.weight_average = WeightAverage(classifier.network, HORIZON)
        return TrainState(classifier, classifier.optimizer, 0)

    plain = state(averages=False)
    plain.model.train_step(rows)
    checkpoints.save(plain, {})
    with_it = state(averages=True)
    checkpoints.restore_latest(with_it)
    average = with_it.model.weight_average
    assert not average.is_there
    average.move_to(16)
    with_it.model.train_step(rows)
    for one, variable in zip(average._of_weights, average._weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), variable.numpy())  # it begins here
    with_it.step = 2
    checkpoints.save(with_it, {})
    again, without = state(averages=True), state(averages=False)
    checkpoints.restore_latest(again)
    checkpoints.restore_latest(without)
    for one, other in zip(again.entries, with_it.entries, strict=True):
        if one.kind is not Kind.DERIVED:
            np.testing.assert_array_equal(one.variable.numpy(), other.variable.numpy())


def test_the_network_has_the_averages_in_a_block_only(make_classifier, batch) -> None:
    classifier = make_classifier()
    average = classifier.weight_average = WeightAverage(classifier.network, HORIZON)
    variables = [*average._weights, *average._statistics]
    before = [one.numpy() for one in variables]
    with average.in_place():  # there is none yet
        assert all(map(np.array_equal, before, [one.numpy() for one in variables]))
    for step in (1, 2, 3):
        average.move_to(8 * step)
        classifier.train_step(tuple(map(tf.constant, batch)))
        settle(World(), classifier, classifier.optimizer, 8)
    before = [one.numpy() for one in variables]
    with pytest.raises(KeyError), average.in_place():
        inside = [one.numpy() for one in variables]
        raise KeyError
    expected = [one.numpy() for one in (*average._of_weights, *average._of_statistics)]
    assert all(map(np.array_equal, inside, expected))
    assert not np.array_equal(inside[0], before[0])
    assert all(map(np.array_equal, before, [one.numpy() for one in variables]))


def test_both_models_are_validated_and_the_average_decides_what_is_best() -> None:
    told, scored = [], []
    watch = Watch()
    watch.averaged = lambda split, place, scores: told.append((split, place, scores))
    watch.epoch_ended = lambda progress, scores: told.append(scores)
    logs: list[dict[str, float]] = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, found: logs.append(found))
    keeper = Memory()
    keeper.scored = lambda step, loss, accuracy: scored.append((step, loss, accuracy))
    loop = averaging(watch, callbacks=[note], keeper=keeper, epochs=1)
    loop.commits._validation = loop.splits["train"]
    loop.run()
    (split, place, averaged), plain = told
    assert (split, tuple(place)) == ("validation", (6, 1, EXAMPLES))
    assert averaged.loss != plain.loss
    assert scored == [(6, averaged.loss, averaged.accuracy)]
    assert logs[0]["val_loss"] == plain.loss and logs[0]["val_ema_loss"] == averaged.loss
