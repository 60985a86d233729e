"""The strategy "overlapped" in a world of one: gradients are applied one step late."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World
from app.state import Kind, state_variables

optimizers = keras.optimizers
RATE, MOMENTUM = 0.1, 0.9
INPUTS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
START = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


class Squares:
    """Trains the W of mean(|x W|^2) / 2 on the rows that each step gives."""

    def __init__(self, inner=None, world=None, **options) -> None:
        self.weight = keras.Variable(START, name="weight")
        self.optimizer = DistributedOptimizer(
            inner or optimizers.SGD(RATE, momentum=MOMENTUM),
            world=world or World(),
            strategy="overlapped",
            **options,
        )
        self.optimizer.build([self.weight])
        self.traced = tf.function(self._step, autograph=False)

    def _step(self, rows: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.matmul(rows, self.weight.value) ** 2) / 2
            objective = self.optimizer.scale_loss(loss)
        gradient = tape.gradient(objective, self.weight.value)
        self.optimizer.apply([gradient], [self.weight], weight=tf.shape(rows)[0], loss=loss)

    def step(self, rows: np.ndarray) -> np.ndarray:
        self.traced(tf.constant(rows))
        return self.weight.numpy()

    def settle(self) -> np.ndarray:
        self.optimizer.settle()
        return self.weight.numpy()


def gradient(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return rows.T @ (rows @ weight)


def test_each_step_applies_the_gradient_of_the_step_before() -> None:
    """Also where batches differ in size, so that steps are traced several times."""
    training = Squares()
    weight, velocity, pending = START, 0.0, None
    for rows in (INPUTS, INPUTS[:4], INPUTS[2:3], INPUTS):
        own = gradient(rows, weight)
        if pending is not None:
            velocity = MOMENTUM * velocity - RATE * pending
            weight = weight + velocity
        pending = own
        np.testing.assert_allclose(training.step(rows), weight, rtol=1e-4, atol=1e-6)
    assert int(training.optimizer.iterations) == 3
    velocity = MOMENTUM * velocity - RATE * pending
    np.testing.assert_allclose(training.settle(), weight + velocity, rtol=1e-4, atol=1e-6)
    assert int(training.optimizer.iterations) == 4


def test_settling_leaves_nothing_pending() -> None:
    training = Squares()
    assert np.array_equal(training.settle(), START)  # there was no step
    training.step(INPUTS)
    settled = training.settle()
    assert np.array_equal(training.settle(), settled)
    assert np.array_equal(training.step(INPUTS), settled)  # the first step of another stretch
    training.settle()
    local = [
        entry.variable
        for entry in state_variables(keras.Model(), training.optimizer)
        if entry.kind is Kind.LOCAL
    ]
    assert len(local) == 3
    assert not any(variable.numpy().any() for variable in local)


def test_a_bad_step_is_skipped_when_its_turn_comes() -> None:
    training, other = Squares(), Squares()
    bad = INPUTS.copy()
    bad[0, 0] = np.nan
    training.step(INPUTS)
    first = training.step(bad)
    assert not np.array_equal(first, START)  # the step before is fine
    assert training.optimizer.signals.heard().numpy()[1:].any()
    assert np.array_equal(training.step(INPUTS), first)
    assert not training.optimizer.signals.heard().numpy().any()
    other.step(INPUTS)
    other.step(INPUTS)
    assert np.array_equal(first, other.weight.numpy())
    assert not np.array_equal(training.settle(), first)
    assert int(training.optimizer.iterations) == 2


def test_an_overflow_halves_the_scale_one_step_late() -> None:
    inner = optimizers.LossScaleOptimizer(optimizers.SGD(RATE), initial_scale=2.0**126)
    training = Squares(inner)
    training.step(1e3 * INPUTS)
    assert float(inner.dynamic_scale.numpy()) == 2.0**126
    assert np.array_equal(training.step(0 * INPUTS), START)
    assert float(inner.dynamic_scale.numpy()) == 2.0**125
    assert not training.optimizer.signals.heard().numpy().any()
    training.settle()
    assert int(training.optimizer.iterations) == 1  # of the step that was fine


def test_a_loss_scale_changes_nothing_else() -> None:
    plain = Squares(optimizers.SGD(RATE))
    scaled = Squares(optimizers.LossScaleOptimizer(optimizers.SGD(RATE), dynamic_growth_steps=1))
    for rows in (INPUTS, INPUTS[1:], INPUTS[:3]):
        np.testing.assert_allclose(scaled.step(rows), plain.step(rows), rtol=1e-5)
    np.testing.assert_allclose(scaled.settle(), plain.settle(), rtol=1e-5)


def test_accumulated_passes_make_one_late_step() -> None:
    training, whole = Squares(backward_passes_per_step=2), Squares()
    for rows in (INPUTS, INPUTS[::-1], INPUTS):
        training.step(rows[:3])
        # The means of halves count by their rows: the losses here are sums.
        mean = (
            gradient(rows[:3], whole.weight.numpy()) + gradient(rows[3:], whole.weight.numpy())
        ) / 2
        late = training.step(rows[3:])
        whole.optimizer.apply([tf.constant(mean)], [whole.weight], weight=6)
        np.testing.assert_allclose(late, whole.weight.numpy(), rtol=1e-4)
    np.testing.assert_allclose(training.settle(), whole.settle(), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_rows_of_embeddings_wait_as_dense_gradients() -> None:
    table = keras.Variable(np.zeros((5, 2), np.float32), name="table")
    unused = keras.Variable(np.ones((2,), np.float32), name="unused")
    optimizer = DistributedOptimizer(optimizers.SGD(1.0), world=World(), strategy="overlapped")
    optimizer.build([table, unused])
    rows = tf.IndexedSlices(tf.ones((2, 2)), tf.constant([1, 1]), tf.constant([5, 2]))
    optimizer.apply([rows, None], [table, unused])
    assert not table.numpy().any()
    optimizer.settle()
    expected = np.zeros((5, 2))
    expected[1] = -2.0
    np.testing.assert_array_equal(table.numpy(), expected)
    np.testing.assert_array_equal(unused.numpy(), 1.0)


def test_a_part_of_the_variables_is_refused() -> None:
    variables = [keras.Variable(np.ones(2), name=name) for name in "ab"]
    optimizer = DistributedOptimizer(optimizers.SGD(1.0), world=World(), strategy="overlapped")
    optimizer.build(variables)
    with pytest.raises(ValueError, match="got 1 variables and was built for 2"):
        optimizer.apply([tf.ones(2)], variables[1:])


class MarkedWorld(World):
    """A world of one whose collectives are to be found in a graph."""

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return tf.identity(tensor, name=f"collective_{name.rsplit('.', 1)[-1]}")


def before(op: tf.Operation) -> set[str]:
    """The names of all operations that one waits for."""
    found: set[str] = set()
    to_see = [op]
    while to_see:
        one = to_see.pop()
        waited = [*(tensor.op for tensor in one.inputs), *one.control_inputs]
        to_see += [other for other in waited if other.name not in found]
        found |= {other.name for other in waited}
    return found


def test_exchange_and_computation_do_not_wait_for_each_other() -> None:
    training = Squares(world=MarkedWorld())
    operations = training.traced.get_concrete_function(tf.constant(INPUTS)).graph.get_operations()
    exchange = [op for op in operations if op.name.startswith("collective_0")]
    signals = [op for op in operations if op.name.startswith("collective_signals")]
    computation = [op for op in operations if op.type == "MatMul"]
    assert len(exchange) == len(signals) == 1
    assert len(computation) == 2
    for op in computation:
        assert op.name not in before(exchange[0])
        assert exchange[0].name not in before(op)
    assert exchange[0].name not in before(signals[0])
