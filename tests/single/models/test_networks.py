"""The networks in graphs, in mixed precision and in files, and that each one learns."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from tests.single.models.small import (
    CLASSES,
    DEEP_IMAGE,
    MAX_TOKENS,
    TEXTS,
    logits_of,
    random_images,
    random_inputs,
    random_tokens,
    small_model,
    small_models,
)


@pytest.fixture
def mixed_float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


# Graphs, precision and files.


@small_models
def test_mixed_precision_keeps_logits_and_variables_in_float32(name, mixed_float16):
    model, inputs = small_model(name), random_inputs(name, 4)
    logits = model(inputs, training=True)
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    compute = {layer.compute_dtype for layer in model.layers}
    assert "float16" in compute, "no layer computes in float16"
    if name in TEXTS:
        padded = np.pad(inputs, [(0, 0), (0, 5)])
        np.testing.assert_allclose(logits_of(model, padded), logits_of(model, inputs), atol=5e-3)
        assert np.isfinite(logits_of(model, np.zeros((2, 5), "int32"))).all()


@small_models
def test_a_saved_and_loaded_model_is_the_same(name, tmp_path):
    model, inputs = small_model(name), random_inputs(name, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [v.path for v in loaded.variables] == [v.path for v in model.variables]
    assert loaded.name == model.name
    np.testing.assert_array_equal(logits_of(loaded, inputs), logits_of(model, inputs))


@small_models
def test_an_exported_model_answers_the_same_for_any_batch_and_length(name, tmp_path):
    model, batches = small_model(name), [random_inputs(name, count) for count in (1, 3)]
    if name in TEXTS:
        batches += [random_tokens(2, length=1), random_tokens(3, length=MAX_TOKENS)]
    model.export(tmp_path, verbose=False)
    exported = tf.saved_model.load(tmp_path)
    for batch in batches:
        np.testing.assert_allclose(exported.serve(batch), logits_of(model, batch), atol=1e-5)


# Learning.


def assert_one_step_lowers_the_loss(model, inputs, learning_rate):
    """Take one SGD step in a graph that knows neither batch nor length."""
    labels = np.arange(len(inputs)) % CLASSES
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    specs = [(model.input.shape, model.input.dtype), ([None], tf.int64)]

    @tf.function(input_signature=[tf.TensorSpec(*spec) for spec in specs])
    def loss_and_gradients(inputs, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(inputs, training=True))
        return loss, tape.gradient(loss, [v.value for v in model.trainable_variables])

    generators = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    states = [v.numpy() for v in generators]
    before, gradients = loss_and_gradients(inputs, labels)
    assert all(gradient is not None for gradient in gradients)
    keras.optimizers.SGD(learning_rate).apply(gradients, model.trainable_variables)
    for generator, state in zip(generators, states, strict=True):
        generator.assign(state)
    after, _ = loss_and_gradients(inputs, labels)  # BatchNorm and random numbers as in the step
    assert after < before


@small_models
def test_one_step_lowers_the_loss(name):
    keras.utils.set_random_seed(1)
    assert_one_step_lowers_the_loss(small_model(name, dropout=0), random_inputs(name, 16), 0.01)


@pytest.mark.full_matrix
@pytest.mark.parametrize(("name", "rate"), [("resnet50", 1e-3), ("efficientnetv2", 1e-5)])
def test_one_step_of_a_deep_network_lowers_the_loss(name, rate, deep):
    assert_one_step_lowers_the_loss(deep[name], random_images(8, pixels=32), rate)


@pytest.mark.full_matrix
@pytest.mark.parametrize("name", DEEP_IMAGE)
def test_a_deep_network_in_a_file_is_the_same(name, deep, tmp_path):
    model, images = deep[name], random_images(2, pixels=32)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [v.path for v in loaded.variables] == [v.path for v in model.variables]
    np.testing.assert_array_equal(logits_of(loaded, images), logits_of(model, images))


def test_dropout_works_in_training_alone_and_keeps_the_mean():
    dropout = models.layers.Dropout(0.25, name="drop")
    ones = np.ones((100, 100), "float32")
    np.testing.assert_array_equal(dropout(ones), ones)
    dropped = keras.ops.convert_to_numpy(dropout(ones, training=True))
    assert set(np.unique(dropped.round(4))) == {0, np.float32(1.3333)}
    assert dropped.mean() == pytest.approx(1, abs=0.05)
    rows = models.layers.Dropout(0.25, (None, 1), name="rows")
    of_rows = keras.ops.convert_to_numpy(rows(ones, training=True))
    assert (of_rows == of_rows[:, :1]).all() and len(np.unique(of_rows)) == 2
    again = keras.ops.convert_to_numpy(dropout(ones, training=True))
    assert (dropped != again).any()
