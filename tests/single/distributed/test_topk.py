"""topk: what the paper says of it, and what its sample could miss."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Wire
from app.state import Kind
from tests.single.distributed.reducing import Reducing, gradients, on

SHAPES = ((40, 50), (50,))


def test_topk_makes_momentum_before_it_chooses_as_in_the_paper() -> None:
    """Algorithm 4 of Lin et al. 2018, without masking, with the largest 100 of 2,000, in NumPy."""
    momentum, k, ranks = 0.9, 100, 3

    def work(world):
        reducing = Reducing("topk", world, SHAPES, Wire(topk_ratio=0.05, momentum=momentum))
        steps = [reducing.step(gradients(world.rank, step, SHAPES)) for step in range(6)]
        return steps, reducing.state(Kind.SUMMED)

    results = on(ranks, work)
    velocity, owed = np.zeros((ranks, 2000)), np.zeros((ranks, 2000))
    small = np.zeros(50)
    for step, sums in enumerate(results[0][0]):
        wanted = np.zeros(2000)
        given = [gradients(rank, step, SHAPES) for rank in range(ranks)]
        for rank in range(ranks):
            velocity[rank] = momentum * velocity[rank] + given[rank][0].ravel()
            owed[rank] += velocity[rank]
            sent = np.abs(owed[rank]) >= np.sort(np.abs(owed[rank]))[-k]
            wanted += np.where(sent, owed[rank], 0)
            owed[rank][sent] = 0
        small = momentum * small + sum(one[1] for one in given)
        np.testing.assert_allclose(sums[0].ravel(), wanted, atol=1e-4)
        np.testing.assert_allclose(sums[1], small, atol=1e-4)
    for rank, (_, kept) in enumerate(results):
        np.testing.assert_allclose(kept, [owed[rank], velocity[rank]], atol=1e-4)


@pytest.mark.parametrize("wire", [{"topk_ratio": 1.0}, {"from_epoch": 1.0}], ids=str)
def test_topk_that_sends_everything_is_plain_sgd_with_momentum(wire: dict) -> None:
    def work(world):
        def trained(optimizer, **options) -> list[np.ndarray]:
            variables = [keras.Variable(np.ones(shape, np.float32)) for shape in SHAPES]
            distributed = DistributedOptimizer(optimizer, world=world, name="all", **options)
            distributed.build(variables)
            for step in range(5):
                own = gradients(world.rank, step, SHAPES)
                distributed.apply([tf.constant(one) for one in own], variables, weight=8)
            return [variable.numpy() for variable in variables]

        plain = trained(keras.optimizers.SGD(0.1, momentum=0.9))
        options = {"compression": "topk", "wire": Wire(momentum=0.9, **wire)}
        return plain, trained(keras.optimizers.SGD(0.1), **options)

    for plain, topk in on(2, work):
        for one, other in zip(plain, topk, strict=True):
            assert np.abs(one - 1).max() > 0.1
            np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("width", [100, 64, 300])
def test_the_sample_sees_more_than_one_column(width: int) -> None:
    """Where only the first column is zero, as of a dead unit, the largest elements are sent."""
    shape = (420_000 // width, width)
    (gradient,) = gradients(0, 0, (shape,))
    gradient[:, 0] = 0

    def work(world):
        return Reducing("topk", world, (shape,)).step([gradient])[0]

    (total,) = on(1, work)
    sent = total != 0
    assert 0.8 * 4200 < sent.sum() <= 4200
    assert np.abs(gradient[sent]).min() > 0.9 * np.quantile(np.abs(gradient), 0.99)


def test_a_gradient_whose_norm_is_beyond_float32_is_clipped_to_zero() -> None:
    def work(world):
        reducing = Reducing("topk", world, SHAPES, Wire(momentum=0.9, clip_norm=1.0))
        huge = reducing.step([np.full(shape, 1e30) for shape in SHAPES])
        return huge, reducing.step(gradients(world.rank, 0, SHAPES))

    for huge, usual in on(2, work):
        assert not any(one.any() for one in huge)
        assert all(np.isfinite(one).all() and one.any() for one in usual)


def test_momentum_belongs_to_wire_where_gradients_travel_and_to_sgd_where_models_do() -> None:
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    for optimizer in (sgd, keras.optimizers.LossScaleOptimizer(sgd)):
        with pytest.raises(ValueError, match=r"give SGD\(momentum=0.0\) and wire=.*=0.9"):
            DistributedOptimizer(optimizer, compression="topk")
        DistributedOptimizer(optimizer, compression="topk", strategy="local")
    for wire in (Wire(momentum=0.9), Wire(clip_norm=1.0)):
        with pytest.raises(ValueError, match="'topk' with strategy 'local' .* not to Wire"):
            DistributedOptimizer(
                keras.optimizers.SGD(0.1), compression="topk", wire=wire, strategy="local"
            )
