"""The learning rate against NumPy, and at every number of workers."""

import itertools

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf

from app.build import build_schedule
from app.config import Optimizer
from app.recipe import load
from app.schedule import Schedule, scaled_peak


def rates(schedule: Schedule, steps: range, steps_per_epoch: int = 1) -> np.ndarray:
    """The rates of these steps, each of which is 1 / steps_per_epoch of an epoch."""
    return np.array(
        [schedule.rate(one / steps_per_epoch, (one + 1) / steps_per_epoch) for one in steps]
    )


def wanted(scaling: str) -> Optimizer:
    return Optimizer(learning_rate=0.1, learning_rate_scaling=scaling, reference_batch_size=64)


@pytest.mark.parametrize(("scaling", "expected"), [("linear", 0.4), ("sqrt", 0.2), ("none", 0.1)])
def test_the_peak_grows_with_the_global_batch(scaling: str, expected: float) -> None:
    assert scaled_peak(wanted(scaling), 256) == pytest.approx(expected)
    assert scaled_peak(wanted(scaling), 64) == pytest.approx(0.1)


def test_a_smaller_batch_than_the_reference_lowers_the_peak() -> None:
    assert scaled_peak(wanted("linear"), 16) == pytest.approx(0.025)
    assert scaled_peak(wanted("sqrt"), 16) == pytest.approx(0.05)


def test_warm_up_rises_by_equal_steps_to_the_peak() -> None:
    schedule = Schedule(0.8, "constant", warmup_epochs=2, epochs=5)
    expected = [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    np.testing.assert_allclose(rates(schedule, range(6), 2), expected, rtol=1e-6)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    for shape in ("constant", "cosine"):
        schedule = Schedule(0.8, shape, warmup_epochs=0, epochs=10)
        assert rates(schedule, range(1))[0] == pytest.approx(0.8)


def test_cosine_falls_to_zero_after_the_last_epoch() -> None:
    schedule = Schedule(0.3, "cosine", warmup_epochs=1, epochs=5)
    steps = np.arange(30)
    warmup = np.minimum(1, (steps + 1) / 5)
    done = np.clip((steps - 5) / 20, 0, 1)
    expected = 0.3 * warmup * 0.5 * (1 + np.cos(np.pi * done))
    np.testing.assert_allclose(rates(schedule, range(30), 5), expected, rtol=1e-5, atol=1e-7)
    assert schedule.rate(3, 3.2) == pytest.approx(0.15)
    assert schedule.rate(5, 5.2) == 0


def test_linear_falls_to_zero_after_the_last_epoch() -> None:
    schedule = Schedule(0.3, "linear", warmup_epochs=1, epochs=5)
    steps = np.arange(30)
    warmup = np.minimum(1, (steps + 1) / 5)
    expected = 0.3 * warmup * (1 - np.clip((steps - 5) / 20, 0, 1))
    np.testing.assert_allclose(rates(schedule, range(30), 5), expected, rtol=1e-6, atol=1e-9)
    assert schedule.rate(5, 5.2) == 0


def test_one_cycle_rises_and_falls_in_straight_lines_of_one_length_and_ends_at_zero() -> None:
    schedule = Schedule(0.5, "one_cycle", warmup_epochs=0, epochs=20)
    low, slope = 0.5 / 25, 0.5 * 24 / 25 / 9  # of 9 epochs each; the last 2 go to 0
    expected = [low + slope * min(e, 18 - e) if e < 18 else low * (20 - e) / 2 for e in range(21)]
    np.testing.assert_allclose(rates(schedule, range(21)), expected, rtol=1e-6, atol=1e-9)
    assert max(expected) == pytest.approx(0.5) == schedule.rate(9, 9.1)


def test_steps_multiply_the_rate_at_their_boundaries() -> None:
    schedule = Schedule(1.0, "step", 0, 9, boundaries=[3, 6], factor=0.5)
    expected = [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    np.testing.assert_allclose(rates(schedule, range(9)), expected, rtol=1e-6)


def test_warm_up_and_steps_multiply() -> None:
    schedule = Schedule(1.0, "step", 4, 9, boundaries=[2], factor=0.1)
    np.testing.assert_allclose(rates(schedule, range(4)), [0.25, 0.5, 0.075, 0.1], rtol=1e-6)


def test_warm_up_over_the_whole_run_never_passes_the_peak() -> None:
    schedule = Schedule(1.0, "cosine", warmup_epochs=10, epochs=10)
    np.testing.assert_allclose(rates(schedule, range(10)), np.arange(1, 11) / 10, rtol=1e-6)


def test_the_optimizer_reads_the_rate_of_the_place_and_not_of_its_step() -> None:
    schedule = Schedule(0.4, "cosine", warmup_epochs=0, epochs=2)
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.build([keras.Variable(0.0)])
    optimizer.iterations.assign(1_000)
    schedule.move_to(1, 1.5)
    assert float(optimizer.learning_rate) == pytest.approx(0.2)


def test_a_schedule_is_rebuilt_from_its_config() -> None:
    schedule = Schedule(0.3, "step", 2, 9, boundaries=[3, 6], factor=0.5)
    again = Schedule.from_config(schedule.get_config())
    np.testing.assert_array_equal(rates(again, range(9)), rates(schedule, range(9)))


EXAMPLES, EPOCHS = 1_003, 4
SHAPES = {
    "constant": {"schedule": "constant"},
    "cosine": {"schedule": "cosine"},
    "linear": {"schedule": "linear"},
    "step": {"schedule": "step", "step_epochs": "1,2.5"},
}


def parts_of_peak(keys: dict, ranks: int, begin: int, end: int) -> dict[float, tuple]:
    """What a run of `ranks` does in the epochs [begin, end): epochs done -> (share of the peak,
    length of the step in epochs)."""
    config = load(None, {**keys, "epochs": EPOCHS})
    schedule, batch = build_schedule(config, ranks), config.training.examples_per_step(ranks)
    found = {}
    for epoch, seen in itertools.product(range(begin, end), range(0, EXAMPLES, batch)):
        after = min(seen + batch, EXAMPLES)
        rate = schedule.rate(epoch + seen / EXAMPLES, epoch + after / EXAMPLES)
        found[epoch + seen / EXAMPLES] = rate / schedule.peak, (after - seen) / EXAMPLES
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup_epochs", [0, 1.5])
@pytest.mark.parametrize(("before", "now"), itertools.product((1, 2, 4), repeat=2))
def test_the_rate_over_the_peak_is_the_same_over_a_resume_between_any_two_world_sizes(
    shape: str, warmup_epochs: float, before: int, now: int
) -> None:
    keys = {**SHAPES[shape], "warmup_epochs": warmup_epochs}
    resumed = parts_of_peak(keys, before, 0, 2) | parts_of_peak(keys, now, 2, EPOCHS)
    undisturbed = Schedule(1.0, shape, warmup_epochs, EPOCHS, [1, 2.5])
    for done, (share, length) in resumed.items():
        expected = undisturbed.rate(done, done)
        step = length / warmup_epochs if done < warmup_epochs else 0.0
        assert expected - 1e-9 <= share <= expected + step + 1e-9, done
    assert min(share for share, _ in resumed.values()) > 0  # it never stops learning


def test_a_rate_for_each_step_does_not_fill_memory() -> None:
    """TensorFlow caches every Python float that becomes a tensor, about 0.7 KB each."""
    schedule = Schedule(0.1, "cosine", warmup_epochs=0, epochs=10)

    def move(steps: range) -> int:
        for step in steps:
            schedule.move_to(step / 10_000, (step + 1) / 10_000)
        return psutil.Process().memory_info().rss

    warm = move(range(5_000))
    assert move(range(5_000, 45_000)) - warm < 10e6


@pytest.mark.parametrize(("before", "now"), [(1, 4), (4, 2)])
def test_one_cycle_is_the_same_at_every_number_of_workers(before: int, now: int) -> None:
    keys = {"schedule": "one_cycle"}
    resumed = parts_of_peak(keys, before, 0, 2) | parts_of_peak(keys, now, 2, EPOCHS)
    undisturbed = Schedule(1.0, "one_cycle", 0, EPOCHS)
    for done, (share, _) in resumed.items():
        assert share == pytest.approx(undisturbed.rate(done, done)) and share > 0


def test_a_step_may_be_given_its_rate_wherever_training_is() -> None:
    schedule = Schedule(0.1, "constant", warmup_epochs=0, epochs=10)
    optimizer = keras.optimizers.SGD(schedule)
    variable = keras.Variable(np.zeros(1), dtype="float32")
    optimizer.build([variable])

    @tf.function(autograph=False)
    def step(rate: tf.Tensor) -> None:
        with schedule.given(rate):
            optimizer.apply([tf.ones(1)], [variable])

    for rate in (0.5, 0.25):
        step(tf.constant(rate))
    assert variable.numpy() == pytest.approx([-0.75])
    optimizer.apply([tf.ones(1)], [variable])  # outside, that of the place
    assert variable.numpy() == pytest.approx([-0.85])
