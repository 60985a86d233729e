import keras
import numpy as np
import pytest
import tensorflow as tf

from models.layers import BatchNormalization

OPTIONS = {"momentum": 0.7, "epsilon": 1e-5, "name": "norm"}


def passed(kind: type[keras.Layer], images: np.ndarray, training: bool, **options) -> dict:
    """What a layer with learned numbers gives, learns and remembers."""
    layer = kind(**{**OPTIONS, **options})
    layer.build(images.shape)
    random = np.random.default_rng(1)
    for variable in layer.weights:  # above 0, as a variance is
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    inputs = tf.constant(images, layer.compute_dtype)
    upstream = tf.constant(random.normal(size=images.shape), layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
    sources = [inputs, *(variable.value for variable in layer.trainable_variables)]
    gradients = tape.gradient(outputs, sources, output_gradients=upstream)
    names = ["outputs", "of inputs", *(f"of {one.name}" for one in layer.trainable_variables)]
    found = dict(zip(names, [outputs, *gradients], strict=True))
    found |= {one.name: one.value for one in layer.weights}
    assert outputs.dtype == layer.compute_dtype
    return {name: tf.cast(one, tf.float64).numpy() for name, one in found.items()}


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(2, 3, size=(6, 5, 4, 16))


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 2e-5),
        ({"scale": False}, 2e-5),
        ({"center": False}, 2e-5),
        ({"dtype": "mixed_bfloat16"}, 0.05),
        ({"dtype": "mixed_float16"}, 0.01),
        ({"dtype": "float64"}, 0),
        ({"trainable": False}, 2e-5),
    ],
    ids=str,
)
def test_it_is_keras_layer(images, options, tolerance, training) -> None:
    expected = passed(keras.layers.BatchNormalization, images, training, **options)
    received = passed(BatchNormalization, images, training, **options)
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            received[name], value, rtol=tolerance, atol=3 * tolerance, err_msg=name
        )


def test_the_kernel_takes_the_images(images) -> None:
    layer = BatchNormalization(**OPTIONS)
    step = tf.function(lambda x: layer(x, training=True))
    graph = step.get_concrete_function(tf.constant(images, tf.float32)).graph
    assert "FusedBatchNormV3" in {one.type for one in graph.get_operations()}


def test_a_mask_and_another_axis_are_left_to_keras(images) -> None:
    mask = np.arange(6 * 5 * 4).reshape(6, 5, 4) % 3 > 0
    for options, arguments in (({}, {"mask": mask}), ({"axis": 1}, {})):
        received, expected = (
            kind(**OPTIONS, **options)(images, training=True, **arguments)
            for kind in (BatchNormalization, keras.layers.BatchNormalization)
        )
        np.testing.assert_array_equal(received, expected)
