"""The moving average of weights against its definition, and when it follows them."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync
from app.distributed.replicas import settle
from app.distributed.world import World
from app.learning.weight_average import WeightAverage, kept_share
from app.loop import Loop
from tests.single.learning.averaging import HORIZON, averaging
from tests.single.test_loop import BATCH, EXAMPLES, Memory


def share(before: float, now: float, horizon: float = HORIZON) -> float:
    return min(np.exp((before - now) / horizon), (before / now) ** 10)


def by_numpy(places: list[int], weights: list[np.ndarray]) -> np.ndarray:
    """The average after weights that were there at these places."""
    average, before = np.zeros_like(weights[0]), 0
    for place, value in zip(places, weights, strict=True):
        kept = share(before, place)
        average, before = kept * average + (1 - kept) * value, place
    return average


@pytest.mark.parametrize("horizon", [1.0, 40.0, 1e6])
def test_the_share_does_not_depend_on_how_many_steps_the_examples_take(horizon) -> None:
    def after(steps: list[float]) -> float:
        kept = [kept_share(a, b, horizon) for a, b in itertools.pairwise(steps)]
        return float(np.prod([float(one) for one in kept]))

    for begin, end in ((100, 180), (1000, 1100)):
        if (begin < 10 * horizon) == (end < 10 * horizon):
            many = list(np.linspace(begin, end, 17))
            assert after([begin, end]) == pytest.approx(after(many), rel=1e-9)
    assert float(kept_share(0, 5, horizon)) == 0  # the first weights of all leave no trace
    assert float(kept_share(7, 7, horizon)) == 1


def test_it_begins_with_a_tenth_of_the_run_and_keeps_to_its_horizon_then() -> None:
    assert float(kept_share(50, 60, 1e6)) == pytest.approx((50 / 60) ** 10)
    assert float(kept_share(5000, 5010, 100.0)) == pytest.approx(np.exp(-0.1))


class Weights(keras.callbacks.Callback):
    """What the weights are after each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append([v.numpy() for v in self.model.trainable_variables])


def averages(loop: Loop) -> list[np.ndarray]:
    return [one.numpy() for one in loop.classifier.weight_average._of_weights]


def check(loop: Loop, places: list[int], seen: list[list[np.ndarray]]) -> None:
    for index, average in enumerate(averages(loop)):
        expected = by_numpy(places, [weights[index] for weights in seen])
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(average - seen[-1][index]).max() > 1e-4


@pytest.mark.parametrize("keys", [{}, {"global_batch_size": 7}, {"optimizer": "sgd"}])
def test_it_is_its_definition_over_the_steps_of_a_run(keys) -> None:
    weights = Weights()
    loop = averaging(callbacks=[weights], epochs=2, **keys)
    loop.run()
    batch = keys.get("global_batch_size", BATCH)
    in_epoch = [min(n, EXAMPLES) for n in range(batch, EXAMPLES + batch, batch)]
    check(loop, [*in_epoch, *(EXAMPLES + n for n in in_epoch)], weights.seen)


def test_accumulated_passes_count_once() -> None:
    weights = Weights()
    loop = averaging(callbacks=[weights], epochs=2, backward_passes_per_step=2)
    loop.run()
    check(loop, list(range(BATCH, 2 * EXAMPLES + 1, BATCH)), weights.seen[1::2])


class Spoils(keras.callbacks.Callback):
    """Makes the loss of one step infinite."""

    def __init__(self, step: int):
        super().__init__()
        self.step, self.count = step, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.count += 1
        bias = self.model.trainable_variables[-1]
        if self.count == self.step:
            self.kept = bias.numpy()
            bias.assign(np.full(bias.shape, np.nan, np.float32))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.count == self.step:
            self.model.trainable_variables[-1].assign(self.kept)


def test_it_does_not_follow_a_step_that_was_left_out() -> None:
    weights = Weights()
    loop = averaging(callbacks=[Spoils(3), weights], epochs=1)
    loop.run()
    places = list(range(BATCH, EXAMPLES + 1, BATCH))
    kept = [0, 1, 3, 4, 5]
    assert int(loop.state.optimizer.iterations) == 5
    check(loop, [places[n] for n in kept], [weights.seen[n] for n in kept])


def test_it_does_not_follow_an_overflow_of_float16(make_classifier, batch) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    classifier = make_classifier(keras.optimizers.SGD(0.1), batch_norm=False, dropout=0.0)
    average = classifier.weight_average = WeightAverage(classifier.network, HORIZON)
    classifier.optimizer.inner_optimizer.dynamic_scale.assign(2.0**40)
    for step in range(1, 4):
        average.move_to(8 * step)
        before = int(classifier.optimizer.iterations)
        classifier.train_step(tuple(map(tf.constant, batch)))
        assert average.is_there == (int(classifier.optimizer.iterations) > 0)
        assert int(average._made.numpy()) == (8 * step if average.is_there else 0)
        if step == 1:
            assert before == int(classifier.optimizer.iterations) == 0
            classifier.optimizer.inner_optimizer.dynamic_scale.assign(1.0)


def test_in_rounds_it_follows_at_their_ends_only() -> None:
    weights = Weights()
    keys = {"sync": "local", "sync_every_steps": 2, "epochs": 2}
    loop = averaging(callbacks=[weights], **keys)
    loop.run()
    places = list(range(2 * BATCH, 2 * EXAMPLES + 1, 2 * BATCH))
    check(loop, places, weights.seen[1::2])


@pytest.mark.parametrize("sync", ["overlapped", "delayed"])
def test_what_is_in_flight_is_averaged_once_it_is_there(sync) -> None:
    weights, keeper = Weights(), Memory()
    keys = {"sync_every_steps": 2} if sync == "delayed" else {}
    loop = averaging(callbacks=[weights], keeper=keeper, epochs=2, sync=sync, **keys)
    loop.run()
    average = loop.classifier.weight_average
    assert int(average._made.numpy()) == 2 * EXAMPLES
    places = list(range(BATCH, 2 * EXAMPLES + 1, BATCH))
    if sync == "overlapped":  # the first step of an epoch updates nothing
        steps = [n for n in range(12) if n not in (0, 6)]
        seen = [weights.seen[n] for n in steps]
        check(loop, [places[n] for n in steps], seen)
    else:  # ranks have one model at commit points
        at_ends = [arrays for _, arrays in keeper.states]
        assert len(at_ends) == 2
        kernel = loop.classifier.trainable_variables[0]
        index = next(n for n, e in enumerate(loop.state.entries) if e.variable is kernel)
        expected = by_numpy([EXAMPLES, 2 * EXAMPLES], [arrays[index] for arrays in at_ends])
        np.testing.assert_allclose(averages(loop)[0], expected, rtol=1e-5, atol=1e-6)


def test_statistics_of_batches_are_averaged_at_commit_points(make_classifier, batch) -> None:
    classifier = make_classifier()
    average = classifier.weight_average = WeightAverage(classifier.network, HORIZON)
    rows, seen = tuple(map(tf.constant, batch)), []
    norm = classifier.network.get_layer("norm")
    now = [one.numpy() for one in average._of_statistics]
    for step in range(1, 7):
        average.move_to(8 * step)
        classifier.train_step(rows)
        if step % 2 == 0:
            before = [one.numpy() for one in average._of_statistics]
            settle(World(), classifier, classifier.optimizer, 16)
            seen.append([norm.moving_mean.numpy(), norm.moving_variance.numpy()])
        else:
            after = [one.numpy() for one in average._of_statistics]
            assert all(map(np.array_equal, after, now))
        now = [one.numpy() for one in average._of_statistics]
    assert not np.array_equal(before[0], now[0])
    for index in (0, 1):
        expected = by_numpy([16, 32, 48], [both[index] for both in seen])
        np.testing.assert_allclose(now[index], expected, rtol=1e-5)


def test_a_commit_point_without_a_step_changes_nothing(make_classifier, batch) -> None:
    classifier = make_classifier()
    average = classifier.weight_average = WeightAverage(classifier.network, HORIZON)
    average.move_to(8)
    classifier.train_step(tuple(map(tf.constant, batch)))
    settle(World(), classifier, classifier.optimizer, 8)
    before = [one.numpy() for one in average.variables]
    settle(World(), classifier, classifier.optimizer, 0)
    assert all(map(np.array_equal, before, [one.numpy() for one in average.variables]))


def test_what_is_frozen_is_not_averaged(make_classifier) -> None:
    classifier = make_classifier()
    for name in ("hidden", "norm"):
        classifier.network.get_layer(name).trainable = False
    average = WeightAverage(classifier.network, HORIZON)
    assert [one.path for one in average._weights] == ["logits/kernel", "logits/bias"]
    assert average._statistics == []


def test_rounds_of_ranks_count_in_the_strategy() -> None:
    """`are_equal` is what `follow` goes by."""
    weight = keras.Variable(np.ones(3, np.float32), name="weight")
    optimizer = DistributedOptimizer(
        keras.optimizers.SGD(1.0), world=World(), strategy="local", sync=Sync(every_steps=3)
    )
    optimizer.build([weight])
    found = []
    for _ in range(6):
        optimizer.apply([tf.ones(3)], [weight])
        found.append(bool(optimizer.are_equal))
    assert found == [False, False, True] * 2
