"""Scaled float16 on the wire, between ranks that are threads of this process."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.reducers.codec import Part
from app.distributed.reducers.half import LEAST, ScaledHalf
from app.distributed.world import World
from app.state import Kind, state_variables
from tests.single.distributed.threads import THREADS, on_ranks


class Steps:
    """The sums of one bucket, step after step, and what was sent for them."""

    def __init__(self, world: World):
        self.world, self.codec = world, ScaledHalf()
        self.codec.build(2, lambda shape, **_: keras.Variable(np.zeros(shape, np.float32)))

    def sum(self, gradient: np.ndarray, share: float | None = None) -> tuple[np.ndarray, float]:
        """(the mean over ranks, bytes sent per element)."""
        return self._step(self.codec.sum, gradient, share)

    def gather(self, rows: np.ndarray, share: float | None = None) -> tuple[np.ndarray, float]:
        """(all ranks' rows divided by the number of ranks, bytes sent per element)."""
        return self._step(self.codec.gather, rows, share)

    def _step(self, call, tensor, share):
        share = np.float32(1 / self.world.size if share is None else share)
        part = Part(tf.constant(tensor * share), 1, "x")
        ((total, sent),), keeps = call([part], self.world)
        for variable, value in keeps:
            variable.assign(value)
        return total.numpy(), float(sent.bytes_sent) / max(1, tensor.size)

    @property
    def scale(self) -> float:
        return float(self.codec._state.numpy()[1, 0])

    @property
    def back_off(self) -> float:
        return float(self.codec._state.numpy()[1, 1])


def normal(rank: int, step: int, sd: float, size: int = 1000) -> np.ndarray:
    random = np.random.default_rng([rank, step])
    return (sd * random.normal(size=size)).astype(np.float32)


def assert_equal_everywhere(results: list) -> None:
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@pytest.mark.parametrize("sd", [1e-8, 1e-5, 1.0, 1e2])
@pytest.mark.parametrize("ranks", [2, 64, 1024])
@pytest.mark.parametrize("equal", [True, False], ids=["equal ranks", "unlike ranks"])
def test_the_error_stays_under_its_bound_at_any_size(ranks: int, sd: float, equal: bool) -> None:
    def two_steps(world):
        steps = Steps(world)
        first = steps.sum(normal(0 if equal else world.rank, 0, sd))
        assert first[1] == 4  # the first maximum is not known yet
        total, sent = steps.sum(normal(0 if equal else world.rank, 1, sd))
        assert sent == 2
        return total

    results = on_ranks(ranks, two_steps)
    assert_equal_everywhere(results)
    threads = min(ranks, THREADS)
    sent = [normal(0 if equal else rank, 1, sd).astype(np.float64) for rank in range(threads)]
    exact = np.mean(sent, axis=0)
    error = np.linalg.norm(results[0] - exact) / np.linalg.norm(exact)
    assert 2.0**-14 < error < 2.0**-10


def test_a_bucket_of_all_magnitudes_keeps_its_norm() -> None:
    """Half of the elements a million times smaller than the others."""

    def error(world):
        steps = Steps(world)
        gradient = normal(world.rank, 0, 1e-3) * np.tile([1, 1e-6], 500).astype(np.float32)
        steps.sum(gradient)
        total, sent = steps.sum(gradient)
        assert sent == 2
        return np.linalg.norm(total - steps.world.allreduce(tf.constant(gradient), "e") / 64), total

    for difference, total in on_ranks(64, error):
        assert difference < 2.0**-10 * np.linalg.norm(total)


def test_a_sum_beyond_float16_is_exchanged_again_in_float32_on_all_ranks() -> None:
    def grow(world):
        steps = Steps(world)
        steps.sum(normal(world.rank, 0, 1.0))
        jump, sent = steps.sum(normal(world.rank, 1, 1e6))
        assert sent == 2 + 4
        after, sent = steps.sum(normal(world.rank, 2, 1e6))
        assert sent == 2
        assert steps.back_off == 3 - 2.0**-11
        return jump, after

    results = on_ranks(4, grow)
    for number, tolerance in ((0, 1e-6), (1, 2.0**-10)):
        assert_equal_everywhere([result[number] for result in results])
        exact = np.mean([normal(rank, number + 1, 1e6).astype(float) for rank in range(4)], axis=0)
        np.testing.assert_allclose(
            results[0][number], exact, atol=tolerance * np.linalg.norm(exact)
        )


def test_a_sum_too_small_for_its_scale_is_exchanged_again_in_float32() -> None:
    def shrink(world):
        steps = Steps(world)
        steps.sum(normal(world.rank, 0, 1e2))
        total, sent = steps.sum(normal(world.rank, 1, 1e-8))
        assert sent == 2 + 4
        assert steps.sum(normal(world.rank, 2, 1e-8))[1] == 2
        assert steps.back_off == 0
        return total

    results = on_ranks(4, shrink)
    exact = np.mean([normal(rank, 1, 1e-8).astype(float) for rank in range(4)], axis=0)
    np.testing.assert_allclose(results[0], exact, rtol=1e-4, atol=1e-14)


def test_shares_that_cancel_back_the_scale_off_until_they_fit() -> None:
    """The ranks' shares are 64 times larger than their sum."""

    def cancel(world):
        steps = Steps(world)
        sign = 1 if world.rank == 0 else -1
        gradient = (sign * 64 + normal(0, 0, 1.0, 9).clip(-1, 1)).astype(np.float32)
        sent = [steps.sum(gradient)[1] for _ in range(5)]
        return sent, steps.back_off

    for sent, back_off in on_ranks(2, cancel):
        assert sent == [4, 6, 2, 2, 2]
        assert 2.9 < back_off < 3


def test_the_scale_follows_a_loss_scale_that_doubles_and_halves() -> None:
    def follow(world):
        steps = Steps(world)
        scales = []
        for step, loss_scale in enumerate([2.0**15, 2.0**14, 2.0**15, 2.0**10, 2.0**16]):
            _, sent = steps.sum(normal(world.rank, 0, 1e-4) * np.float32(loss_scale))
            assert sent == (4 if step == 0 else 6 if step == 4 else 2)
            scales.append(steps.scale * loss_scale)
        return scales

    (scales, _) = on_ranks(2, follow)
    assert scales == [scales[0]] * 4 + [scales[0] / 8]  # the jump by 64 has left more headroom


def test_gradients_that_are_not_finite_arrive_so_and_leave_the_scale() -> None:
    def overflow(world):
        steps = Steps(world)
        first, _ = steps.sum(np.full(3, np.inf if world.rank else 1.0, np.float32))
        assert not np.isfinite(first).any() and steps.scale == 0
        steps.sum(np.ones(3, np.float32))
        before = steps.scale, steps.back_off
        for bad in (np.inf, np.nan):
            total, _ = steps.sum(np.array([1.0, bad if world.rank else 1.0, 1.0], np.float32))
            assert np.isfinite(total).tolist() == [True, False, True]
            assert (steps.scale, steps.back_off) == before
        return True

    assert on_ranks(2, overflow) == [True, True]


def test_zeros_are_zeros_and_what_follows_is_exact() -> None:
    def zeros(world):
        steps = Steps(world)
        sent = []
        for value in (0.0, 0.0, 1e-9, 0.0, 1.0):
            total, in_bytes = steps.sum(np.full(5, value, np.float32))
            np.testing.assert_allclose(total, value, rtol=1e-6)
            sent.append(in_bytes)
        assert steps.sum(np.zeros(0, np.float32))[0].shape == (0,)
        return sent

    # One value after zeros goes in float32; zeros after a value are sent twice, once.
    assert on_ranks(2, zeros) == [[4, 4, 4, 6, 4]] * 2


@pytest.mark.parametrize("sd", [1e-8, 1e2])
def test_gathered_rows_have_a_scale_as_well(sd: float) -> None:
    def rows_of(rank: int, step: int) -> np.ndarray:
        return normal(rank, step, sd, 6 * rank).reshape(-1, 3)  # rank 0 has none

    def gather(world):
        steps = Steps(world)
        results = [steps.gather(rows_of(world.rank, step)) for step in range(2)]
        for sent in (sent for _, sent in results if world.rank):
            assert sent in (4, 2)
        nothing, _ = steps.gather(np.zeros((0, 3), np.float32))
        assert nothing.shape == (0, 3)
        return results[1][0]

    results = on_ranks(4, gather)
    assert_equal_everywhere(results)
    exact = np.concatenate([rows_of(rank, 1) for rank in range(4)]).astype(np.float64) / 4
    assert np.linalg.norm(results[0] - exact) < 2.0**-10 * np.linalg.norm(exact)


def test_the_scales_are_powers_of_two_within_bounds() -> None:
    steps = Steps(World())
    for value in (1e-36, 3e-30, 1e-3, 1.0, 65504.0, 3e38):
        steps.codec._state.assign(np.zeros((2, 2), np.float32))
        steps.sum(np.array([value, -value], np.float32))
        assert np.frexp(steps.scale)[0] == 0.5
        assert LEAST < value * steps.scale <= 2.0**12


def test_the_scales_are_state_that_is_guarded_and_saved() -> None:
    optimizer = DistributedOptimizer(
        keras.optimizers.SGD(0.1), world=World(), compression="fp16", name="distributed"
    )
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="only")])
    optimizer.build(network.trainable_variables)
    gradients = [tf.ones((2, 1)), tf.ones(1)]
    step = tf.function(lambda: optimizer.apply(gradients, network.trainable_variables))
    step()
    (entry,) = [e for e in state_variables(network, optimizer) if e.path.endswith("/fp16_scales")]
    assert entry.kind is Kind.REPLICATED and entry.optional
    # One bucket, kept under the first variable in it: the last one of the model.
    np.testing.assert_array_equal(entry.variable.numpy(), [[0, 0], [2.0**11, 0]])
    step()
    sent = optimizer.telemetry.totals[1]
    assert sent == 4 * 3 + 2 * 3
