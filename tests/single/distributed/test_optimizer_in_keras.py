"""DistributedOptimizer where Keras uses it: compile, fit, mixed precision, XLA, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World

optimizers = keras.optimizers
INPUTS = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
TARGETS = np.random.default_rng(1).normal(size=(8, 1)).astype(np.float32)


def distributed(inner: optimizers.Optimizer, **options: object) -> DistributedOptimizer:
    return DistributedOptimizer(inner, world=World(), name="distributed", **options)


def compiled(optimizer: optimizers.Optimizer, **options: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="only")])
    model.compile(optimizer, "mse", **options)
    return model


def fit(model: keras.Model, epochs: int = 3) -> keras.Model:
    model.fit(INPUTS, TARGETS, batch_size=4, epochs=epochs, shuffle=False, verbose=0)
    return model


def assert_equal_weights(left: keras.Model, right: keras.Model) -> None:
    for one, other in zip(left.get_weights(), right.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_fit_is_that_of_the_optimizer_inside() -> None:
    bare = fit(compiled(optimizers.Adam(0.1), jit_compile=False))
    wrapped = fit(compiled(distributed(optimizers.Adam(0.1)), jit_compile=False))
    assert_equal_weights(wrapped, bare)


def test_mixed_float16_puts_the_loss_scale_inside() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = distributed(optimizers.SGD(0.1))
    model = fit(compiled(optimizer, jit_compile=False))
    assert model.optimizer is optimizer
    assert type(optimizer.inner_optimizer) is optimizers.LossScaleOptimizer
    assert type(optimizer.inner_optimizer.inner_optimizer) is optimizers.SGD
    bare = fit(compiled(optimizers.SGD(0.1), jit_compile=False))
    assert type(bare.optimizer) is optimizers.LossScaleOptimizer
    assert_equal_weights(model, bare)


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("traced", [False, True])
def test_an_overflow_skips_the_step_and_halves_the_loss_scale(passes: int, traced: bool) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = distributed(optimizers.SGD(1.0), backward_passes_per_step=passes)
    variable = keras.Variable([1.0, 2.0])
    optimizer.build([variable])
    scale = optimizer.inner_optimizer.dynamic_scale
    scale.assign(8.0)
    assert float(optimizer.scale_loss(3.0)) == 24

    def apply(gradient):
        optimizer.apply([gradient], [variable], weight=3)

    apply = tf.function(apply) if traced else apply
    for number in range(passes):
        apply(tf.constant([np.inf if number == 0 else 1.0, 0]))
    assert float(scale) == 4
    assert int(optimizer.iterations) == 0
    assert variable.numpy().tolist() == [1, 2]
    for _ in range(passes):
        apply(tf.constant([4.0, 2.0]))
    assert int(optimizer.iterations) == 1
    assert variable.numpy().tolist() == [0, 1.5]


def test_a_loss_scale_of_the_optimizer_inside_is_used() -> None:
    optimizer = distributed(optimizers.SGD(1.0, loss_scale_factor=16.0))
    variable = keras.Variable([1.0])
    assert float(optimizer.scale_loss(2.0)) == 32
    optimizer.apply([tf.constant([8.0])], [variable])
    assert variable.numpy().tolist() == [0.5]


def test_sparse_gradients_keep_their_loss_scale() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = distributed(optimizers.SGD(1.0))
    table = keras.Variable(np.zeros((3, 2), np.float32))
    optimizer.build([table])
    optimizer.inner_optimizer.dynamic_scale.assign(2.0)
    slices = tf.IndexedSlices(tf.ones((2, 2)), tf.constant([1, 1]), tf.constant([3, 2]))
    optimizer.apply([slices], [table], weight=1)
    assert table.numpy().tolist() == [[0, 0], [-1, -1], [0, 0]]


def test_a_model_compiled_for_xla_gets_a_clear_error() -> None:
    model = compiled(distributed(optimizers.SGD(0.1)), jit_compile=True)
    with pytest.raises(RuntimeError, match="jit_compile=False"):
        fit(model)


def test_a_function_compiled_for_xla_gets_a_clear_error() -> None:
    optimizer, variable = distributed(optimizers.SGD(0.1)), keras.Variable([1.0])
    optimizer.build([variable])

    @tf.function(jit_compile=True)
    def step(gradient):
        optimizer.apply([gradient], [variable])

    with pytest.raises(RuntimeError, match="Horovod's collectives cannot be"):
        step(tf.constant([1.0]))
    assert variable.numpy().tolist() == [1]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_config_makes_the_same_optimizer(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    optimizer = distributed(
        optimizers.SGD(0.25, momentum=0.5),
        compression="fp16",
        op="average",
        backward_passes_per_step=3,
        sparse_as_dense=True,
        bucket_mb=1.5,
    )
    config = optimizer.get_config()
    again = DistributedOptimizer.from_config(optimizer.get_config())
    assert again.get_config() == config
    assert again.backward_passes_per_step == 3 and again.op == "average"
    serialized = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(serialized)
    assert isinstance(again, DistributedOptimizer)
    assert again.get_config() == config


@pytest.mark.parametrize("passes", [1, 2])
def test_a_saved_model_goes_on_where_it_was(tmp_path, passes: int) -> None:
    optimizer = distributed(optimizers.Adam(0.1), backward_passes_per_step=passes)
    model = fit(compiled(optimizer, jit_compile=False), epochs=2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again.optimizer, DistributedOptimizer)
    saved = [v.numpy() for v in model.optimizer.variables]
    loaded = [v.numpy() for v in again.optimizer.variables]
    for one, other in zip(saved, loaded, strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(again.optimizer.iterations) == 4 // passes
    assert_equal_weights(fit(again), fit(model))
