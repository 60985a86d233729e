"""Numbers gone bad in a world of one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Wire
from app.distributed.reducers import COMPRESSIONS
from app.distributed.signals import Signals, with_overflow
from app.distributed.world import World

NAN = float("nan")


def named(*names: str) -> list[keras.Variable]:
    return [keras.Variable(np.ones(2, np.float32), name=name) for name in names]


def scaled(gradients: list, by: float) -> tuple[list, Signals]:
    signals = Signals()
    variables = named("first", "second", "third")[: len(gradients)]
    return signals.scaled(gradients, variables, tf.constant(by)), signals


def test_a_gradient_that_is_not_finite_becomes_zeros_and_is_named() -> None:
    bad = tf.constant([1.0, NAN])
    found, signals = scaled([None, tf.ones(2), bad], 0.5)
    assert found[0] is None
    np.testing.assert_array_equal(found[1], [0.5, 0.5])
    np.testing.assert_array_equal(found[2], [0.0, 0.0])
    assert signals.first_bad() == "third"


def test_rows_that_are_not_finite_become_zeros() -> None:
    rows = tf.IndexedSlices(tf.constant([[1.0, -np.inf]]), tf.constant([4]), tf.constant([6, 2]))
    (found,), signals = scaled([rows], 0.5)
    np.testing.assert_array_equal(found.values, [[0.0, 0.0]])
    np.testing.assert_array_equal(found.indices, [4])
    assert signals.first_bad() == "first"


def test_with_share_0_a_gradient_may_be_anything() -> None:
    rows = tf.IndexedSlices(tf.fill((1, 2), NAN), tf.constant([4]), tf.constant([6, 2]))
    found, signals = scaled([tf.fill(2, NAN), rows], 0.0)
    for gradient in found:
        assert not np.any(tf.convert_to_tensor(gradient))
    assert signals.first_bad() is None


def test_half_precision_gradients_are_not_divided_in_half_precision() -> None:
    (found,), _ = scaled([tf.fill([2], tf.constant(2.0**-20, tf.float16))], 1 / 1024)
    np.testing.assert_array_equal(found, np.full(2, 2.0**-30, np.float32))


def test_only_the_smallest_gradient_tells_of_an_overflow() -> None:
    gradients = [tf.ones((2, 2)), None, tf.constant([-0.0, 3.0])]
    for overflow in (False, True):
        large, none, small = with_overflow(gradients, tf.constant(overflow))
        np.testing.assert_array_equal(large, 1.0)
        assert none is None
        assert np.isnan(small).all() == overflow
    assert np.signbit(with_overflow(gradients, tf.constant(False))[2].numpy()[0])


@pytest.mark.parametrize("traced", [False, True])
def test_a_bad_step_changes_nothing_and_the_next_one_counts(traced: bool) -> None:
    variables = named("first", "second")
    inner = keras.optimizers.Adam(0.1)
    optimizer = DistributedOptimizer(inner, world=World(), compression="fp16")
    optimizer.build(variables)

    def apply(value: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
        optimizer.apply([tf.ones(2), tf.fill([2], value)], variables, weight=3, loss=loss)
        return optimizer.signals.heard()

    step = tf.function(apply) if traced else apply
    step(tf.constant(1.0), tf.constant(1.0))
    before = [v.numpy() for v in [*variables, *optimizer.variables]]
    for value, loss, heard, name in (
        (NAN, 1.0, [0, 1, 0], "second"),
        (1.0, NAN, [0, 0, 1], "loss"),
    ):
        assert step(tf.constant(value), tf.constant(loss)).numpy().tolist() == heard
        assert optimizer.signals.first_bad() == name
        for variable, old in zip([*variables, *optimizer.variables], before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), old, err_msg=variable.path)
    step(tf.constant(1.0), tf.constant(1.0))
    assert int(optimizer.iterations) == 2


def test_the_wish_to_stop_travels_with_the_next_exchange() -> None:
    (variable,) = named("first")
    optimizer = DistributedOptimizer(keras.optimizers.SGD(0.1), world=World())
    optimizer.signals.ask_to_stop()
    assert optimizer.signals.heard().numpy().tolist() == [0, 0, 0]
    optimizer.apply([tf.ones(2)], [variable])
    assert optimizer.signals.heard().numpy().tolist() == [1, 0, 0]


class Noting(World):
    """A world of one that notes the names of its collectives."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        self.names.append(name)
        return tensor


class Halving:
    """A compressor of a user."""

    def compress(self, tensor: tf.Tensor) -> tuple[tf.Tensor, None]:
        return tensor / 2, None

    def decompress(self, tensor: tf.Tensor, _: None) -> tf.Tensor:
        return tensor * 2


@pytest.mark.parametrize(
    ("compression", "wire", "ride"),
    [
        *((name, Wire(), name != "fp16") for name in COMPRESSIONS),
        ("topk", Wire(clip_norm=1.0), False),  # which would scale them
        (Halving(), Wire(), False),
    ],
)
def test_what_ranks_tell_travels_with_gradients_where_it_arrives_as_it_is(
    compression, wire, ride
) -> None:
    world, shapes = Noting(), [(40, 40), (40,)]
    variables = [keras.Variable(np.ones(shape, np.float32)) for shape in shapes]
    sgd = keras.optimizers.SGD(1.0)
    optimizer = DistributedOptimizer(sgd, world=world, compression=compression, wire=wire)
    gradients = [tf.ones(shape) for shape in shapes]
    optimizer.apply(gradients, variables)
    assert ride != any(name.endswith(".signals") for name in world.names)
    assert optimizer.signals.heard().numpy().tolist() == [0, 0, 0]
    before = [variable.numpy() for variable in variables]
    optimizer.signals.ask_to_stop()
    optimizer.apply([tf.fill(shapes[0], np.nan), gradients[1]], variables)
    assert optimizer.signals.heard().numpy().tolist() == [1, 1, 0]
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
