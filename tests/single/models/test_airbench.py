"""The network of airbench: what is particular about it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import build_image_model
from models.airbench_layers import Dirac, Whiten, gelu


def images(count: int = 300) -> np.ndarray:
    """Smooth noise of 0 to 1, whose channels and neighbours are correlated."""
    noise = np.random.default_rng(0).random((count, 12, 12, 3))
    noise += np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2) + noise[..., :1]
    return (noise / 8).astype(np.float32)


def test_whitened_patches_are_uncorrelated_with_variance_1_and_mean_0() -> None:
    layer = Whiten(name="whiten")
    raw = np.asarray(layer(images()))
    layer.adapt_to_images(images())
    out = np.asarray(layer(images())).reshape(-1, 24).astype(np.float64)
    np.testing.assert_allclose(out[:, 12:], -out[:, :12], atol=1e-4)
    covariance = np.cov(out[:, :12].T)
    np.testing.assert_allclose(covariance, np.eye(12), atol=0.05)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-3)
    assert np.abs(np.cov(raw.reshape(-1, 24)[:, :12].T) - np.eye(12)).max() > 0.5
    assert [weight.path for weight in layer.trainable_weights] == ["whiten/bias"]


def test_the_same_images_give_the_same_kernel() -> None:
    layers = [Whiten(name=name) for name in "ab"]
    for layer in layers:
        layer(images(2))
        layer.adapt_to_images(images())
    np.testing.assert_array_equal(layers[0].kernel.numpy(), layers[1].kernel.numpy())


@pytest.mark.parametrize(("inputs", "filters"), [(3, 8), (8, 3), (4, 4)])
def test_the_first_filters_of_a_dirac_kernel_pass_their_inputs_on(inputs, filters) -> None:
    kernel = np.asarray(Dirac()((3, 3, inputs, filters)))
    passed = min(inputs, filters)
    pixels = np.random.default_rng(1).random((2, 5, 5, inputs)).astype(np.float32)
    out = np.asarray(keras.ops.conv(pixels, kernel, padding="same"))
    np.testing.assert_array_equal(out[..., :passed], pixels[..., :passed])
    if filters > inputs:
        rest = kernel[..., passed:]
        assert 0 < np.abs(rest).max() <= 1 / np.sqrt(9 * inputs)


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_image_model("airbench", (12, 12, 3), 5, width=4)


def test_logits_are_the_mean_over_six_views_but_in_training() -> None:
    model, pixels = network(), images(6) * 255
    for variable in model.non_trainable_variables:  # statistics: inference is as training then
        variable.assign(np.random.default_rng(2).uniform(0.5, 1.5, variable.shape))
    of_all_views = keras.Model(model.input, model.get_layer("logits").output)

    def of_one(view: np.ndarray) -> np.ndarray:
        return np.asarray(of_all_views(view, training=False))[: len(view)]

    wide = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = {"none": pixels, "up": wide[:, 2:, 2:], "down": wide[:, :12, :12]}
    weights = {"none": 0.25, "up": 0.125, "down": 0.125}
    expected = sum(
        weights[name] * (of_one(view) + of_one(view[:, :, ::-1])) for name, view in moved.items()
    )
    np.testing.assert_allclose(model(pixels, training=False), expected, atol=1e-5)
    assert np.abs(of_one(pixels) - expected).max() > 1e-3
    assert model(pixels, training=True).shape == of_all_views(pixels, training=True).shape == (6, 5)


def test_it_is_saved_and_loaded(tmp_path) -> None:
    model, pixels = network(), images(3) * 255
    model.get_layer("whiten").adapt_to_images(images())
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(pixels), model(pixels), atol=1e-6)


def test_gelu_is_near_its_definition_and_has_its_own_slope() -> None:
    x = tf.constant(np.linspace(-6, 6, 241), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        received = gelu(x)
    step = 1e-6
    slope = (gelu(x + step) - gelu(x - step)) / (2 * step)
    np.testing.assert_allclose(tape.gradient(received, x), slope, atol=1e-8)
    assert float(tf.reduce_max(tf.abs(received - keras.ops.gelu(x, approximate=False)))) < 0.021
