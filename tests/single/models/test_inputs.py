"""What the networks read: pixels of any type, texts of any length, and padding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.single.models.small import (
    CLASSES,
    MAX_TOKENS,
    NARROW_IMAGE,
    VOCABULARY_SIZE,
    logits_of,
    random_images,
    random_tokens,
    small_model,
    text_models,
)


@pytest.mark.parametrize("name", NARROW_IMAGE)
def test_image_models_rescale_pixels_themselves(name):
    rescale = small_model(name).get_layer("pixels")
    pixels = np.array([[[[0, 255]]]], "float32")
    low = 0 if name == "cnn" else -1
    np.testing.assert_allclose(rescale(pixels), [[[[low, 1]]]], atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_pixels_of_any_numeric_dtype_give_the_same_logits(dtype):
    model, images = small_model("cnn"), random_images(2).round()
    np.testing.assert_array_equal(logits_of(model, images.astype(dtype)), logits_of(model, images))


@text_models
@pytest.mark.parametrize("length", [1, 2, 4, 7])
def test_padding_never_changes_the_logits(name, length):
    model, tokens = small_model(name), random_tokens(3, length)
    expected = logits_of(model, tokens)
    for padding in (1, 2, 9):
        padded = np.pad(tokens, [(0, 0), (0, padding)])
        np.testing.assert_allclose(logits_of(model, padded), expected, atol=1e-5)


@text_models
def test_padding_changes_nothing_either_when_its_embedding_was_trained(name):
    model, tokens = small_model(name), random_tokens(3)
    table = next(v for v in model.variables if v.shape == (VOCABULARY_SIZE, 8))
    table.assign(keras.ops.concatenate([100 * keras.ops.ones((1, 8)), table[1:]]))
    padded = np.pad(tokens, [(0, 0), (0, 5)])
    np.testing.assert_allclose(logits_of(model, padded), logits_of(model, tokens), atol=1e-5)


@text_models
def test_a_text_of_only_padding_has_finite_logits_and_gradients(name):
    model = small_model(name)
    tokens = np.zeros((2, 5), "int32")
    with tf.GradientTape() as tape:
        logits = model(tokens, training=True)
        loss = tf.reduce_sum(logits**2)
    assert np.isfinite(logits).all()
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients if g is not None)


def test_texts_that_are_too_long_for_the_transformer_are_refused():
    model = small_model("transformer")
    assert logits_of(model, random_tokens(1, MAX_TOKENS)).shape == (1, CLASSES)
    with pytest.raises(ValueError, match="max_tokens=16 tokens, received a text of 17"):
        model(random_tokens(1, MAX_TOKENS + 1))
