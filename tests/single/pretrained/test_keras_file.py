"""Files of keras.applications: what the network answers with them, and what is wrong with them."""

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from app import recipe
from app.errors import UserError
from app.pretrained import find
from models import build_image_model

SHAPE = (64, 48, 3)


@pytest.fixture(scope="module")
def saved() -> keras.Model:
    """The network of keras.applications, with all weights from a seed."""
    model = keras.applications.EfficientNetV2B0(
        include_top=False, weights=None, input_shape=SHAPE, pooling="avg"
    )
    rng = np.random.default_rng(0)
    for variable in model.weights:
        noise = rng.standard_normal(variable.shape).astype(np.float32)
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(1 + 0.2 * np.abs(noise))
        elif not variable.path.endswith("kernel"):
            variable.assign(0.1 * noise)
    return model


@pytest.fixture(scope="module")
def file(saved: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "notop.weights.h5"
    saved.save_weights(path)
    return path


def config(file: Path) -> Any:
    return recipe.load(None, {"model": "efficientnetv2", "pretrained": file})


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return build_image_model("efficientnetv2", SHAPE, 5, pretrained={})


def load(file: Path, network: keras.Model) -> None:
    """Into a network of which nothing is left but zeros."""
    for variable in network.weights:
        variable.assign(np.zeros(variable.shape, np.float32))
    found = find.find(config(file))
    assert found is not None
    assert found.image_size == 224
    find.load(config(file), found, network)
    assert not any(weight.any() for weight in network.get_layer("logits").get_weights())


def assert_answers_like(saved: keras.Model, network: keras.Model) -> None:
    images = np.random.default_rng(1).uniform(0, 255, (2, *SHAPE)).astype(np.float32)
    features = keras.Model(network.input, network.get_layer("average").output)
    expected = keras.ops.convert_to_numpy(saved(images, training=False))
    assert np.abs(expected).max() > 0.1
    answer = keras.ops.convert_to_numpy(features(images, training=False))
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_features_are_those_of_keras(saved: keras.Model, file: Path, network: keras.Model) -> None:
    load(file, network)
    assert_answers_like(saved, network)


def test_the_older_layout_is_read_too(
    saved: keras.Model, network: keras.Model, tmp_path: Path
) -> None:
    file = tmp_path / "efficientnetv2-b0_notop.h5"
    with h5py.File(file, "w") as content:
        legacy_h5_format.save_weights_to_hdf5_group(content, saved)
    load(file, network)
    assert_answers_like(saved, network)
    renamed = file.rename(tmp_path / "efficientnetv2.weights.h5")
    assert refused(renamed).endswith("rename it to *.h5, which Keras goes by")


def test_in_mixed_precision_weights_and_pixels_stay_whole(file: Path) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = build_image_model("efficientnetv2", SHAPE, 5, pretrained={})
        load(file, network)
    finally:
        keras.config.set_dtype_policy(before)
    assert network.get_layer("top_conv").get_weights()[0].any()
    assert {variable.dtype for variable in network.trainable_variables} == {"float32"}
    for name in ("pixels", "pixels_normalized", "logits"):
        assert network.get_layer(name).compute_dtype == "float32"
    assert network.get_layer("stem_conv").compute_dtype == "bfloat16"


def refused(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        find.find(config(file))
    return str(caught.value)


def test_what_is_no_file_of_weights_is_said(file: Path, tmp_path: Path) -> None:
    assert refused(tmp_path) == f"pretrained = '{tmp_path}' is no file"
    other = tmp_path / "model.safetensors"
    other.write_bytes(b"")
    assert f"{other} is not called *.weights.h5" in refused(other)
    broken = tmp_path / "broken.weights.h5"
    broken.write_bytes(file.read_bytes()[:5000])
    assert f"{broken} cannot be read as HDF5: " in refused(broken)
    with h5py.File(broken, "w") as content:
        content["points"] = np.zeros(3)
    assert f"{broken} holds no weights of Keras" in refused(broken)
    renamed = tmp_path / "notop.h5"
    renamed.write_bytes(file.read_bytes())
    assert f"{renamed}: rename it to *.weights.h5" in refused(renamed)


def test_weights_of_another_network_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    file = tmp_path / "other.weights.h5"
    build_image_model("cnn", (8, 8, 1), 3).save_weights(file)
    message = refused(file)
    assert f"{file} holds " in message
    assert "and EfficientNetV2B0 with include_top=False has 5,919,312: is it of" in message


def replaced(file: Path, place: Path, change: Any) -> Path:
    """A copy in which `change` has replaced the kernel of the first convolution."""
    place.write_bytes(file.read_bytes())
    with h5py.File(place, "r+") as content:
        kernel = content["layers/conv2d/vars/0"][()]
        del content["layers/conv2d/vars/0"]
        content["layers/conv2d/vars/0"] = change(kernel)
    return place


def test_a_layer_of_another_shape_is_named(
    file: Path, network: keras.Model, tmp_path: Path
) -> None:
    other = replaced(file, tmp_path / "other.weights.h5", lambda kernel: kernel.transpose())
    with pytest.raises(UserError, match="does not fit efficientnetv2, since 'stem_conv' differs"):
        load(other, network)


def test_numbers_that_are_not_finite_are_refused(
    file: Path, network: keras.Model, tmp_path: Path
) -> None:
    other = replaced(file, tmp_path / "diverged.weights.h5", lambda kernel: kernel * np.nan)
    with pytest.raises(UserError, match="'stem_conv' holds numbers that are not finite"):
        load(other, network)
