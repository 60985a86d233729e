"""The strategy "delayed" in one process: the thread, its errors, what waits for what."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync
from app.distributed.strategies.background import PIECE_BYTES, Background, OneByOne
from app.distributed.world import World
from app.state import Kind, state_variables

optimizers = keras.optimizers
START = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


class Training:
    """Steps with gradients that are given; rounds of two."""

    def __init__(self, world: World, **options) -> None:
        self.weight = keras.Variable(START, name="weight")
        self.optimizer = DistributedOptimizer(
            optimizers.SGD(0.1, momentum=0.9),
            world=world,
            strategy="delayed",
            sync=Sync(every_steps=2),
            **options,
        )
        self.optimizer.build([self.weight])
        self.traced = tf.function(self._step, autograph=False)

    def _step(self, gradient: tf.Tensor) -> None:
        self.optimizer.apply([gradient], [self.weight])

    def step(self, number: int) -> np.ndarray:
        self.traced(gradient(number))
        return self.weight.numpy()


def gradient(number: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(number).normal(size=START.shape), tf.float32)


def test_one_rank_takes_the_steps_of_the_optimizer_inside() -> None:
    training, weight = Training(World()), keras.Variable(START)
    bare = optimizers.SGD(0.1, momentum=0.9)
    for number in range(7):
        bare.apply([gradient(number)], [weight])
        np.testing.assert_allclose(training.step(number), weight.numpy(), rtol=1e-5)
    training.optimizer.settle()
    np.testing.assert_allclose(training.weight.numpy(), weight.numpy(), rtol=1e-5)
    assert int(training.optimizer.iterations) == 7
    variables = state_variables(keras.Model(), training.optimizer)
    local = [entry.variable for entry in variables if entry.kind is Kind.LOCAL]
    assert len(local) == 7
    assert not any(variable.numpy().any() for variable in local)


class SlowWorld(World):
    """Two equal ranks, whose collectives wait for an event, and may fail."""

    size = 2

    def __init__(self) -> None:
        self.goes_on, self.error = threading.Event(), ""

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        def work(array: np.ndarray) -> np.ndarray:
            assert self.goes_on.wait(30)
            if self.error:
                raise RuntimeError(self.error)
            return 2 * array

        return tf.ensure_shape(tf.numpy_function(work, [tensor], tensor.dtype), tensor.shape)

    def allmax(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return self.allreduce(tensor, name) / 2

    def gather(self, value: object) -> list:
        return [value] * 2

    def size_tensor(self) -> tf.Tensor:
        return tf.constant(2.0)


def test_steps_of_the_next_round_do_not_wait_and_its_end_does() -> None:
    world = SlowWorld()
    training = Training(world)
    for number in range(3):
        training.step(number)
    assert not world.goes_on.is_set()
    threading.Timer(0.3, world.goes_on.set).start()
    training.step(3)
    assert world.goes_on.is_set()
    assert training.optimizer.telemetry.totals[0] > 0.01  # seconds
    training.optimizer.settle()
    assert training.optimizer.telemetry.totals[1] == 2 * START.nbytes  # two rounds, and no rest


def test_a_failed_exchange_is_told_at_the_end_of_the_next_round() -> None:
    world = SlowWorld()
    world.error = "rank 1 has gone"
    world.goes_on.set()
    training = Training(world)
    for number in range(3):
        training.step(number)
    with pytest.raises(tf.errors.OpError, match="(?s)exchange of a round failed.*rank 1 has gone"):
        training.step(3)


def test_a_failed_exchange_is_told_when_settling() -> None:
    world = SlowWorld()
    world.error = "rank 1 has gone"
    world.goes_on.set()
    training = Training(world)
    for number in range(2):
        training.step(number)
    with pytest.raises(Exception, match="(?s)exchange of a round failed.*rank 1 has gone"):
        training.optimizer.settle()


def test_background_work_is_waited_for_once() -> None:
    background = Background()
    assert background.wait() == 0.0
    done: list[int] = []
    background.start(lambda: done.append(1))
    assert background.wait() >= 0.0
    assert done == [1]
    assert background.wait() == 0.0


def test_delayed_without_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="every_steps=0: expected at least 1"):
        DistributedOptimizer(
            optimizers.SGD(0.1), world=World(), strategy="delayed", sync=Sync(every_steps=0)
        )


def test_one_thread_of_tensorflow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config.threading, "get_inter_op_parallelism_threads", lambda: 1)
    with pytest.raises(ValueError, match="needs two threads of TensorFlow"):
        Training(World())


class NotingWorld(World):
    """A world of one that notes the sums of a graph."""

    def __init__(self) -> None:
        self.sums: list[tf.Tensor] = []

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        self.sums.append(tf.identity(tensor, name=name))
        return self.sums[-1]


def test_large_sums_travel_in_pieces_one_after_the_other() -> None:
    world = NotingWorld()
    elements = PIECE_BYTES // 4 * 2 + 10
    values = tf.random.normal((2, elements // 2))

    @tf.function
    def both(tensor: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        one_by_one = OneByOne(world)
        return one_by_one.allreduce(tensor, "large"), one_by_one.allreduce(tensor[0, :3], "small")

    large, small = both(values)
    np.testing.assert_array_equal(large, values)
    np.testing.assert_array_equal(small, values[0, :3])
    assert [one.op.name for one in world.sums] == ["large.0", "large.1", "large.2", "small"]
    assert all(one.shape.num_elements() * 4 <= PIECE_BYTES for one in world.sums)
    for before, after in zip(world.sums, world.sums[1:], strict=False):
        assert before.op in after.op.inputs[0].op.control_inputs
