"""What ranks tell each other in the graph of a step: wishes to stop, and numbers gone bad."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.classifier import Classifier
from app.data.batches import Batch
from app.distributed.optimizer import DistributedOptimizer
from tests.parallel.runs import HalfNow

NAN, INF = float("nan"), float("inf")


class Stepper:
    """Two variables, "one" (3,) and "two" (2, 2), and a compiled step on them."""

    def __init__(self, world, inner=None, rows=False, **options):
        self.world = world
        self.variables = [
            keras.Variable(np.ones(3, np.float32), name="one"),
            keras.Variable(np.ones((2, 2), np.float32), name="two"),
        ]
        inner = inner or keras.optimizers.SGD(0.5, momentum=0.9)
        self.optimizer = DistributedOptimizer(inner, world=world, **options)
        self.optimizer.build(self.variables)

        @tf.function
        def step(one, two, weight, loss):
            if rows:
                two = tf.IndexedSlices(two, tf.constant([0, 1]), tf.constant([2, 2]))
            self.optimizer.apply([one, two], self.variables, weight=weight, loss=loss)
            return self.optimizer.signals.heard()

        self._step = step

    def __call__(self, one=1.0, two=1.0, weight=2.0, loss=0.1):
        """What was heard after a step with gradients of these values."""
        gradients = (tf.fill([3], float(one)), tf.fill([2, 2], float(two)))
        return self._step(*gradients, tf.constant(weight), tf.constant(loss)).numpy().tolist()

    def state(self):
        """The bytes of everything; raises if ranks differ."""
        everything = [*self.variables, *self.optimizer.variables]
        mine = [variable.numpy().tobytes() for variable in everything]
        assert all(other == mine for other in self.world.gather(mine))
        return mine


FULL = pytest.mark.full_matrix


@pytest.mark.parametrize(
    "value", [NAN, pytest.param(INF, marks=FULL), pytest.param(-INF, marks=FULL)]
)
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "fp16"}, {"rows": True}, {"rows": True, "compression": "fp16"}],
    ids=str,
)
def test_one_ranks_bad_gradient_skips_the_step_on_all(world, options, value):
    step, twin = Stepper(world, **options), Stepper(world, name="twin", **options)
    last = world.size - 1
    for _ in range(2):  # the second knows a scale
        assert step() == twin() == [0, 0, 0]
    before = step.state()
    assert step(two=value if world.rank == last else 1.0) == [0, 1, 0]
    assert step.state() == before
    paths = world.gather(step.optimizer.signals.first_bad())
    assert paths == [None] * last + ["two"]
    assert step() == twin() == [0, 0, 0]  # goes on as if the bad one had not been
    assert step.state() == twin.state() != before


def test_a_loss_that_is_not_finite_skips_the_step_on_all(world):
    step = Stepper(world)
    before = step.state()
    assert step(loss=NAN if world.rank == 0 else 0.1) == [0, 0, 1]
    assert step.state() == before
    names = world.gather(step.optimizer.signals.first_bad())
    assert names == ["loss"] + [None] * (world.size - 1)


def test_a_rank_without_examples_may_hold_nan(world):
    step = Stepper(world)
    bad = NAN if world.rank == 0 else 1.0
    assert step(bad, bad, loss=bad, weight=0.0 if world.rank == 0 else 2.0) == [0, 0, 0]
    assert step.optimizer.signals.first_bad() is None
    np.testing.assert_array_equal(step.variables[0].numpy(), 0.5)


def test_a_wish_to_stop_is_heard_by_all_at_the_same_step(world):
    step = Stepper(world)
    assert step() == [0, 0, 0]
    if world.rank == 1:
        step.optimizer.signals.ask_to_stop()
    assert step.optimizer.signals.heard().numpy().tolist() == [0, 0, 0]
    assert [step(), step()] == [[1, 0, 0]] * 2
    step.optimizer.signals.ask_to_stop()
    assert step() == [world.size, 0, 0]


@pytest.mark.parametrize("bad", ["one", "loss"])
def test_a_bad_pass_does_not_enter_the_sums_and_its_step_is_skipped(world, bad):
    step = Stepper(world, backward_passes_per_step=2)
    step(), step()
    before = step.state()
    step(**{bad: NAN if world.rank == 0 else 1.0})
    assert all(np.isfinite(v.numpy()).all() for v in step.optimizer.variables)
    assert step() == ([0, 1, 0] if bad == "one" else [0, 0, 1])
    assert step.state() == before
    step()
    assert step() == [0, 0, 0]
    assert step.state() != before


@pytest.mark.parametrize("compression", ["none", "fp16"])
def test_an_overflow_lowers_the_loss_scale_on_all_and_is_not_counted(world, compression):
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=4.0)
    step = Stepper(world, inner, compression=compression)
    step()
    values = [variable.numpy() for variable in step.variables]
    for scale in (2.0, 1.0):
        assert step(INF if world.rank == 0 else 1.0) == [0, 0, 0]
        assert float(inner.dynamic_scale.numpy()) == scale
    # With a scale of 1 there is nothing left to lower.
    assert step(INF if world.rank == 0 else 1.0) == [0, 1, 0]
    assert float(inner.dynamic_scale.numpy()) == 1.0
    # Nor is the scale to blame for a loss.
    assert step(loss=NAN if world.rank == 0 else 1.0) == [0, 0, 1]
    np.testing.assert_array_equal(step.variables[0].numpy(), values[0])
    assert int(step.optimizer.iterations) == 1
    step.state()


def test_what_a_reducer_keeps_is_as_before_a_bad_step(world):
    step = Stepper(world, compression=HalfNow())
    step()
    before = step.state()
    assert step(NAN if world.rank == 0 else 1.0) == [0, 1, 0]
    assert step.state() == before


def test_metrics_and_moving_statistics_take_in_no_bad_pass(world):
    keras.utils.set_random_seed(1)
    norm = keras.layers.BatchNormalization()
    layers = [keras.layers.Input((4,)), norm, keras.layers.Dense(3)]
    classifier = Classifier(keras.Sequential(layers))
    classifier.compile(DistributedOptimizer(keras.optimizers.Adam(0.1), world=world))
    classifier.optimizer.build(classifier.trainable_variables)
    step = tf.function(classifier.train_step, autograph=False)
    inputs = np.random.default_rng(world.rank).normal(size=(6, 4)).astype(np.float32)
    total = tf.constant(6 * world.size, tf.int64)

    def run(value):
        batch = np.where(np.arange(24).reshape(6, 4) == 5, value, inputs).astype(np.float32)
        return step(Batch(tf.constant(batch), tf.constant([0, 1, 2] * 2), total))

    run(0.0)
    moving = [norm.moving_mean.numpy(), norm.moving_variance.numpy()]
    weights = [variable.numpy() for variable in classifier.trainable_variables]
    loss = float(classifier.objective.loss_means[0].result())
    is_bad = world.rank == 0
    logs = run(NAN if is_bad else 0.0)
    assert np.isfinite(float(logs["loss"]))
    if is_bad:
        assert float(logs["loss"]) == loss
        np.testing.assert_array_equal(norm.moving_mean.numpy(), moving[0])
        np.testing.assert_array_equal(norm.moving_variance.numpy(), moving[1])
    assert np.isfinite(norm.moving_mean.numpy()).all()
    for variable, before in zip(classifier.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before)
    assert classifier.optimizer.signals.heard().numpy().tolist() == [0, 1, 1]
    run(0.0)
    assert not np.array_equal(classifier.trainable_variables[-1].numpy(), weights[-1])


def test_fit_skips_the_same_steps_on_all_ranks(world):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(DistributedOptimizer(keras.optimizers.SGD(0.01), world=world), "mse")
    inputs = np.random.default_rng(world.rank).normal(size=(8, 4)).astype(np.float32)
    if world.rank == 0:
        inputs[2] = NAN  # in the second of four batches
    model.fit(inputs, np.ones((8, 1), np.float32), batch_size=2, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == 3
    weights = [variable.numpy() for variable in model.trainable_variables]
    assert all(np.isfinite(one).all() for one in weights)
    for other in world.gather(weights):
        for one, theirs in zip(weights, other, strict=True):
            np.testing.assert_array_equal(one, theirs)
