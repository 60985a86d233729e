"""The learning rate against NumPy."""

import keras
import numpy as np
import pytest

from app.schedule import Schedule, scaled_peak


def rates(schedule: Schedule, steps: range) -> np.ndarray:
    return np.array([float(schedule(step)) for step in steps])


@pytest.mark.parametrize(("scaling", "expected"), [("linear", 0.4), ("sqrt", 0.2), ("none", 0.1)])
def test_the_peak_grows_with_the_global_batch(scaling: str, expected: float) -> None:
    assert scaled_peak(0.1, scaling, 256, 64) == pytest.approx(expected)
    assert scaled_peak(0.1, scaling, 64, 64) == pytest.approx(0.1)


def test_a_smaller_batch_than_the_reference_lowers_the_peak() -> None:
    assert scaled_peak(0.1, "linear", 16, 64) == pytest.approx(0.025)
    assert scaled_peak(0.1, "sqrt", 16, 64) == pytest.approx(0.05)


def test_warm_up_rises_by_equal_steps_to_the_peak() -> None:
    schedule = Schedule(0.8, "constant", warmup_steps=4, total_steps=10)
    expected = [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    np.testing.assert_allclose(rates(schedule, range(6)), expected, rtol=1e-6)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    for shape in ("constant", "cosine"):
        schedule = Schedule(0.8, shape, warmup_steps=0, total_steps=10)
        assert float(schedule(0)) == pytest.approx(0.8)


def test_cosine_falls_to_zero_at_the_last_step() -> None:
    schedule = Schedule(0.3, "cosine", warmup_steps=5, total_steps=25)
    steps = np.arange(30)
    warmup = np.minimum(1, (steps + 1) / 5)
    done = np.clip((steps - 5) / 20, 0, 1)
    expected = 0.3 * warmup * 0.5 * (1 + np.cos(np.pi * done))
    np.testing.assert_allclose(rates(schedule, range(30)), expected, rtol=1e-5, atol=1e-7)
    assert float(schedule(15)) == pytest.approx(0.15)
    assert float(schedule(25)) == 0


def test_steps_multiply_the_rate_at_their_boundaries() -> None:
    schedule = Schedule(1.0, "step", 0, 9, boundaries=[3, 6], factor=0.5)
    expected = [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    np.testing.assert_allclose(rates(schedule, range(9)), expected, rtol=1e-6)


def test_warm_up_and_steps_multiply() -> None:
    schedule = Schedule(1.0, "step", 4, 9, boundaries=[2], factor=0.1)
    np.testing.assert_allclose(rates(schedule, range(4)), [0.25, 0.5, 0.075, 0.1], rtol=1e-6)


def test_warm_up_over_the_whole_run_never_passes_the_peak() -> None:
    schedule = Schedule(1.0, "cosine", warmup_steps=10, total_steps=10)
    np.testing.assert_allclose(rates(schedule, range(10)), np.arange(1, 11) / 10, rtol=1e-6)


def test_a_schedule_is_rebuilt_from_its_config() -> None:
    schedule = Schedule(0.3, "step", 2, 9, boundaries=[3, 6], factor=0.5)
    optimizer = keras.optimizers.SGD(schedule)
    again = keras.optimizers.SGD.from_config(optimizer.get_config())._learning_rate
    assert isinstance(again, Schedule)
    np.testing.assert_array_equal(rates(again, range(9)), rates(schedule, range(9)))
