"""What a step says of itself, against its definition in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.reducers.reducer import Reduced
from app.distributed.telemetry import Telemetry
from app.distributed.world import World

RATE = 0.5


def stepped(optimizer: keras.optimizers.Optimizer, traced: bool = True, **options):
    """(optimizer, variables, gradients) after one step, looked into unless `looks` is False."""
    random = np.random.default_rng(0)
    variables = [
        keras.Variable(random.normal(size=(3, 2)).astype(np.float32), name="matrix"),
        keras.Variable(random.normal(size=4).astype(np.float32), name="vector"),
        keras.Variable(np.ones(2, np.float32), name="unused"),
    ]
    gradients = [random.normal(size=variable.shape).astype(np.float32) for variable in variables]
    keeps, looks = options.pop("keeps_gradients", False), options.pop("looks", True)
    distributed = DistributedOptimizer(optimizer, world=World(), **options)
    distributed.telemetry.keeps_gradients = keeps
    distributed.build(variables)
    scale = float(getattr(distributed.inner_optimizer, "dynamic_scale", 1.0))

    def step() -> None:
        given = [tf.constant(gradient * scale) for gradient in gradients[:2]]
        distributed.apply([*given, None], variables, weight=1)

    run = tf.function(step, autograph=False) if traced else step
    if looks:
        distributed.telemetry.look()
    run()
    return distributed, variables, gradients


def norm(*arrays: np.ndarray) -> float:
    return float(np.sqrt(sum((array.astype(np.float64) ** 2).sum() for array in arrays)))


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_norms_are_those_of_the_gradient_without_its_loss_scale(policy: str, traced: bool) -> None:
    keras.config.set_dtype_policy(policy)
    distributed, variables, gradients = stepped(keras.optimizers.SGD(RATE), traced)
    facts = distributed.telemetry.facts
    assert facts.gradient_norm == pytest.approx(norm(*gradients[:2]), rel=1e-5)
    assert facts.update_norm == pytest.approx(RATE * norm(*gradients[:2]), rel=1e-5)
    before = [variables[i].numpy() + RATE * gradients[i] for i in (0, 1)]
    assert facts.weight_norm == pytest.approx(norm(*before, np.ones(2)), rel=1e-5)
    assert facts.compression_error == 0


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_gradients_are_kept_if_asked_for(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    distributed, _, gradients = stepped(keras.optimizers.SGD(RATE), keeps_gradients=True)
    matrix, vector, unused = distributed.telemetry.gradients
    np.testing.assert_allclose(matrix, gradients[0], rtol=1e-6)
    np.testing.assert_allclose(vector, gradients[1], rtol=1e-6)
    assert not unused.any()
    assert stepped(keras.optimizers.SGD(RATE))[0].telemetry.gradients == []


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_short_epoch_without_a_look_has_no_gradients_rather_than_zeros() -> None:
    distributed, *_ = stepped(keras.optimizers.SGD(RATE), looks=False, keeps_gradients=True)
    assert distributed.telemetry.gradients == []


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_bytes_and_error_are_those_of_the_compressed_gradient() -> None:
    distributed, variables, gradients = stepped(keras.optimizers.SGD(RATE), compression="fp16")
    facts, (_, sent, uncompressed) = distributed.telemetry.facts, distributed.telemetry.totals
    # The first exchange, whose scale nobody knows, is in float32.
    assert facts.compression_error == 0
    distributed.telemetry.look()
    distributed.apply([*map(tf.constant, gradients[:2]), None], variables, weight=1)
    exact = np.concatenate([gradients[0].ravel(), gradients[1]])
    error = norm(exact.astype(np.float16).astype(np.float64) - exact) / norm(exact)
    assert distributed.telemetry.facts.compression_error == pytest.approx(error, rel=1e-3)
    assert (sent, uncompressed) == (4 * exact.size, 4 * exact.size)
    assert distributed.telemetry.totals[1:] == (6 * exact.size, 8 * exact.size)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_step_that_was_not_asked_for_leaves_the_facts() -> None:
    distributed, variables, gradients = stepped(keras.optimizers.SGD(RATE))
    before = distributed.telemetry.facts
    distributed.apply([*(tf.constant(2 * g) for g in gradients[:2]), None], variables, weight=1)
    assert distributed.telemetry.facts == before


def test_the_clock_waits_for_one_joint_and_not_for_every_gradient() -> None:
    """An edge from each of them to an operation of the CPU is a copy from the GPU each."""
    telemetry = Telemetry()

    @tf.function
    def count(one, other):
        telemetry.count_exchange([one, None, other], Reduced([one * 2, None, other * 2], []))

    graph = count.get_concrete_function(tf.ones(2), tf.ones(3)).graph
    clocks = [op for op in graph.get_operations() if op.type == "Timestamp"]
    for clock in clocks:
        assert "CPU" in clock.device
        (joint,) = [op for op in clock.control_inputs if op.type == "NoOp"]
        assert joint.device == ""
        assert len(joint.control_inputs) == 2
        assert not {op.type for op in clock.control_inputs} - {"NoOp", "Timestamp"}
    assert len(clocks) == 2


def test_the_update_is_traced_once_and_a_later_look_sees_it() -> None:
    """Once for steps that are looked into and once for the others, it took a third of the time to a
    first step."""
    telemetry, traced = Telemetry(), []
    weights = keras.Variable(np.full(4, 2.0, np.float32), name="weights")

    def update() -> None:
        traced.append("update")
        weights.assign_sub(tf.ones(4))

    gradients = Reduced([tf.fill([4], 3.0)], [], [])
    step = tf.function(lambda: telemetry.watch(gradients, [weights], update), autograph=False)
    step()
    telemetry.look()
    step()
    assert traced == ["update"] and weights.numpy().tolist() == [0.0] * 4
    facts = telemetry.facts
    assert (facts.gradient_norm, facts.weight_norm, facts.update_norm) == (6.0, 2.0, 2.0)
