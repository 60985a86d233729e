"""What all compressions of large tensors promise."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Wire
from app.distributed.reducers import COMPRESSIONS
from app.distributed.reducers.lossy import is_large
from app.state import Kind
from tests.single.distributed.reducing import (
    FEEDBACK,
    LOSSY,
    SHAPES,
    Reducing,
    gradients,
    on,
)

STEPS = 4


def assert_equal(left: list, right: list) -> None:
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", LOSSY)
def test_all_ranks_get_the_same_bits_and_small_tensors_exact_sums(name: str, ranks: int) -> None:
    def work(world):
        reducing = Reducing(name, world)
        sums = [reducing.step(gradients(world.rank, step)) for step in range(STEPS)]
        return sums, reducing.state(Kind.REPLICATED)

    results = on(ranks, work)
    for sums, state in results[1:]:
        assert_equal(state, results[0][1])
        for mine, others in zip(sums, results[0][0], strict=True):
            assert_equal(mine, others)
    for step, sums in enumerate(results[0][0]):
        exact = [sum(one) for one in zip(*(gradients(r, step) for r in range(ranks)), strict=True)]
        for shape, got, wanted in zip(SHAPES, sums, exact, strict=True):
            assert np.isfinite(got).all()
            if not is_large(shape):
                np.testing.assert_allclose(got, wanted, atol=1e-5)
            elif ranks > 1:
                assert np.linalg.norm(got - wanted) > 0


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_step_hands_to_collectives_what_the_reducer_states(name: str, ranks: int) -> None:
    def work(world):
        reducing = Reducing(name, world)
        reducing.step(gradients(world.rank, 0))  # fp16 does not know its scale in the first step
        world.called.clear()
        reducing.step(gradients(world.rank, 1))
        return world.called, reducing.reducer.collectives(SHAPES, ranks)

    for called, stated in on(ranks, work):
        assert sorted(called) == sorted(stated)


@pytest.mark.parametrize("name", LOSSY)
def test_bytes_sent_are_those_of_the_collectives_of_sums(name: str) -> None:
    def work(world):
        reducing = Reducing(name, world)
        reducing.step(gradients(world.rank, 0))
        scales = sum(one.bytes for one in world.called if one.kind == "allmax")
        return reducing.sent_bytes, sum(one.bytes for one in world.called) - scales

    for told, handed_over in on(2, work):
        assert told == handed_over


@pytest.mark.parametrize("name", LOSSY)
def test_a_step_that_does_not_count_leaves_nothing(name: str) -> None:
    def work(world):
        reducing = Reducing(name, world)
        reducing.step(gradients(world.rank, 0))
        before = reducing.state(*Kind)
        once = reducing.step(gradients(world.rank, 1), counts=False)
        assert_equal(reducing.state(*Kind), before)
        return once, reducing.step(gradients(world.rank, 1))

    for once, again in on(2, work):
        assert_equal(once, again)


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e30])
@pytest.mark.parametrize("name", LOSSY)
def test_numbers_of_any_size_stay_finite(name: str, scale: float) -> None:
    def work(world):
        reducing = Reducing(name, world)
        given = [np.float32(scale) * one for one in gradients(world.rank, 0)]
        return [reducing.step(given) for _ in range(2)]

    for steps in on(2, work):
        assert all(np.isfinite(one).all() for step in steps for one in step)


@pytest.mark.parametrize("name", LOSSY)
def test_zeros_stay_zeros_and_a_missing_gradient_stays_missing(name: str) -> None:
    def work(world):
        reducing = Reducing(name, world)
        zeros = reducing.step([np.zeros(shape) for shape in SHAPES])
        some = reducing.step([None, *gradients(world.rank, 0)[1:3], None])
        return zeros, some

    for zeros, some in on(2, work):
        assert not any(one.any() for one in zeros)
        assert [one is None for one in some] == [True, False, False, True]
        assert np.isfinite(some[2]).all() and some[2].any()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", FEEDBACK)
def test_what_was_sent_and_what_is_owed_are_all_that_was_given(name: str, momentum: float) -> None:
    """Error feedback telescopes. With momentum topk owes also what momentum will still bring."""
    if momentum and name != "topk":
        pytest.skip("only topk makes the momentum itself")
    wire = Wire(topk_ratio=0.05, momentum=momentum)

    def work(world):
        reducing = Reducing(name, world, SHAPES[:1], wire)
        sent = np.zeros(SHAPES[0])
        given, velocity = np.zeros(SHAPES[0]), np.zeros(SHAPES[0])
        for step in range(6):
            (gradient,) = gradients(world.rank, step, SHAPES[:1])
            (total,) = reducing.step([gradient])
            if momentum:  # forgotten where an element was sent
                velocity = momentum * velocity + gradient
                given += velocity
                velocity *= (reducing.state(Kind.SUMMED)[1] != 0).reshape(SHAPES[0])
            else:
                given += gradient
            sent += total
        return sent, given, reducing.state(Kind.SUMMED)[0].reshape(SHAPES[0])

    results = on(3, work)
    owed = sum(result[2] for result in results)
    wanted = sum(result[1] for result in results)
    assert np.abs(owed).max() > 1
    np.testing.assert_allclose(results[0][0] + owed, wanted, atol=2e-5)


@pytest.mark.parametrize("name", FEEDBACK)
def test_everything_is_sent_before_the_epoch_from_which_to_compress(name: str) -> None:
    def work(world):
        reducing = Reducing(name, world, wire=Wire(from_epoch=1.5))
        early = reducing.step(gradients(world.rank, 0))
        owed = [np.abs(one).max() for one in reducing.state(Kind.SUMMED)]
        reducing.epoch.assign(1.5)
        late = reducing.step(gradients(world.rank, 0))
        return early, owed, late

    for early, owed, late in on(2, work):
        exact = [a + b for a, b in zip(gradients(0, 0), gradients(1, 0), strict=True)]
        for shape, one, other, wanted in zip(SHAPES, early, late, exact, strict=True):
            np.testing.assert_allclose(one, wanted, atol=1e-6)
            assert is_large(shape) == (np.abs(other - wanted).max() > 1e-3)
        assert not any(owed)


@pytest.mark.parametrize("name", LOSSY)
def test_four_ranks_find_the_least_of_a_bowl(name: str) -> None:
    """sum_r |W - T_r|^2 / 8 is least at the mean of the T_r."""
    targets = [gradients(rank, 9, SHAPES[2:3])[0] for rank in range(4)]

    def work(world):
        reducing = Reducing(name, world, SHAPES[2:3], Wire(topk_ratio=0.1))
        weights = np.zeros(SHAPES[2])
        for step in range(80):
            (total,) = reducing.step([(weights - targets[world.rank]) / 4])
            weights = weights - 0.3 / (1 + step / 20) * total
        return weights

    found = on(4, work)[0]
    wanted = np.mean(targets, axis=0)
    assert np.linalg.norm(found - wanted) < 0.2 * np.linalg.norm(wanted)  # terngrad: 0.17


@pytest.mark.parametrize("name", LOSSY)
def test_it_goes_with_accumulation_rows_and_a_loss_scale(name: str) -> None:
    table, matrix = (keras.Variable(np.zeros(shape, np.float32)) for shape in ((50, 40), (64, 64)))
    optimizer = DistributedOptimizer(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0),
        compression=name,
        sparse_as_dense=False,
    )
    optimizer.build([table, matrix])
    rows = tf.IndexedSlices(8 * tf.ones((1, 40)), tf.constant([3]), tf.constant([50, 40]))

    @tf.function
    def step():
        optimizer.apply([rows, 8 * tf.ones((64, 64))], [table, matrix], weight=2)

    for _ in range(3):
        step()
    np.testing.assert_allclose(table.numpy()[3], -0.3, rtol=1e-6)
    assert not table.numpy()[4].any()
    assert -0.31 < matrix.numpy().min() <= matrix.numpy().max() < 0.1 and matrix.numpy().any()
