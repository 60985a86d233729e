"""Directories of timm: what PyTorch answers with their weights, and what is wrong with them."""

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy

from app.errors import UserError
from app.pretrained import find, timm
from app.recipe import load as load_config
from models import build_image_model
from tests.single.pretrained.timm_files import (
    CLASSES,
    MEAN,
    STD,
    config_of,
    made_up_images,
    made_up_tensors,
    write_directory,
)
from tests.single.pretrained.torch_outputs import OUTPUTS


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("timm")
    return {name: write_directory(root / name, name) for name in timm.ARCHITECTURES}


def config(directory: Path, model: str = "resnet18", **keys: Any) -> Any:
    return load_config(None, {"model": model, "pretrained": directory, **keys})


def network_of(directory: Path, architecture: str, shape: tuple[int, int, int]) -> keras.Model:
    """With the weights of a directory, its head too, which Lockstep leaves as it is."""
    wanted = config(directory, architecture)
    found = find.find(wanted)
    assert found is not None
    network = build_image_model(architecture, shape, CLASSES, pretrained=found.network)
    before = [array.copy() for array in network.get_layer("logits").get_weights()]
    find.load(wanted, found, network)
    after = network.get_layer("logits").get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    tensors = made_up_tensors(architecture)
    network.get_layer("logits").set_weights([tensors["fc.weight"].T, tensors["fc.bias"]])
    return network


@pytest.mark.parametrize("architecture", timm.ARCHITECTURES)
def test_outputs_are_those_of_torch(architecture: str, directories: dict[str, Path]) -> None:
    images = made_up_images()
    network = network_of(directories[architecture], architecture, images.shape[1:])
    expected = np.array(json.loads(OUTPUTS.read_text())[architecture])
    assert np.abs(expected).max() > 1
    logits = keras.ops.convert_to_numpy(network(images, training=False))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_half_precision_computes_about_the_same(directories: dict[str, Path]) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        images = made_up_images()
        network = network_of(directories["resnet18"], "resnet18", images.shape[1:])
        assert network.get_layer("pixels").compute_dtype == "float32"
        logits = keras.ops.convert_to_numpy(network(images, training=False))
    finally:
        keras.config.set_dtype_policy(before)
    expected = np.array(json.loads(OUTPUTS.read_text())["resnet18"])
    assert np.abs(logits - expected).max() < 0.3
    assert (logits.argmax(1) == expected.argmax(1)).all()


def test_what_is_found_is_what_the_network_and_the_images_need(
    directories: dict[str, Path],
) -> None:
    found = find.find(config(directories["resnet18"]))
    assert found is not None
    assert found.network == {"mean": MEAN, "std": STD}
    assert found.image_size == 64
    assert json.loads(json.dumps(found.network)) == found.network


def test_small_images_enter_by_the_stem_that_the_weights_are_of() -> None:
    shape, pretrained = (32, 32, 3), {"mean": MEAN, "std": STD}
    with_weights = build_image_model("resnet18", shape, CLASSES, pretrained=pretrained)
    assert with_weights.get_layer("stem_conv1").kernel_size == (7, 7)
    assert build_image_model("resnet18", shape, CLASSES).get_layer("stem_conv1").kernel_size == (
        3,
        3,
    )


def test_pixels_are_scaled_as_the_weights_expect() -> None:
    network = build_image_model(
        "resnet18", (32, 32, 3), CLASSES, pretrained={"mean": MEAN, "std": STD}
    )
    pixels = np.array([[[[0, 127.5, 255]]]], np.float32)
    scaled = (pixels[0, 0, 0] / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(
        network.get_layer("pixels")(pixels)[0, 0, 0], scaled, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("model", ["resnet18", "resnet50", "efficientnetv2"])
def test_weights_of_color_images_do_not_go_with_gray_ones(model: str) -> None:
    with pytest.raises(ValueError, match="color images of 3 channels, received 1"):
        build_image_model(model, (32, 32, 1), CLASSES, pretrained={"mean": MEAN, "std": STD})


def test_configs_of_older_versions_have_the_pixels_at_the_top(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(directories["resnet18"], tmp_path / "old")
    content = config_of("resnet18")
    content |= content.pop("pretrained_cfg")
    (directory / "config.json").write_text(json.dumps(content))
    assert find.find(config(directory)) == find.find(config(directories["resnet18"])).__class__(
        [directory / "model.safetensors"], {"mean": MEAN, "std": STD}, image_size=64
    )


def test_the_name_of_the_weights_behind_the_architecture_does_not_matter(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(directories["resnet18"], tmp_path / "tagged")
    (directory / "config.json").write_text(json.dumps(config_of("resnet18.a1_in1k")))
    assert find.find(config(directory)) is not None


@pytest.mark.parametrize(
    "architecture", ["resnet18d", "resnet50", "wide_resnet50_2", "resnet50_gn.a1h_in1k", ""]
)
def test_another_architecture_is_refused_by_name(
    architecture: str, directories: dict[str, Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(directories["resnet18"], tmp_path / "other")
    (directory / "config.json").write_text(json.dumps(config_of(architecture)))
    advice = "give --model resnet50" if architecture == "resnet50" else "its variants are not read"
    message = f"its architecture is '{architecture}', not 'resnet18': {advice}"
    assert message in refused(directory)


def refused(directory: Path, model: str = "resnet18") -> str:
    with pytest.raises(UserError) as caught:
        find.find(config(directory, model))
    return str(caught.value)


def test_what_is_missing_is_named(directories: dict[str, Path], tmp_path: Path) -> None:
    directory = shutil.copytree(directories["resnet18"], tmp_path / "copy")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    assert "pytorch_model.bin, a pickle" in refused(directory)
    (directory / "pytorch_model.bin").unlink()
    assert "holds no model.safetensors" in refused(directory)
    (directory / "config.json").unlink()
    assert "holds no config.json" in refused(directory)
    assert f"'{directory / 'nowhere'}' is no directory" in refused(directory / "nowhere")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", None),
        ("mean", [0.5]),
        ("mean", [0.5, 0.5, float("nan")]),
        ("std", [0.2, 0.2, 0]),
        ("std", ["a", "b", "c"]),
        ("input_size", [224, 224]),
        ("input_size", [3, 0, 224]),
        ("input_size", 224),
    ],
)
def test_what_config_json_says_wrongly_is_named(
    key: str, value: Any, directories: dict[str, Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(directories["resnet18"], tmp_path / "copy")
    content = config_of("resnet18")
    content["pretrained_cfg"][key] = value
    (directory / "config.json").write_text(json.dumps(content))
    assert f"{directory / 'config.json'}: {key} is {value!r}: expected " in refused(directory)


def test_tensors_that_do_not_fit_are_named(directories: dict[str, Path], tmp_path: Path) -> None:
    directory = shutil.copytree(directories["resnet18"], tmp_path / "copy")
    file, tensors = directory / "model.safetensors", made_up_tensors("resnet18")
    gray = tensors | {"conv1.weight": np.zeros((64, 1, 7, 7), np.float32)}
    safetensors.numpy.save_file(gray, file)
    assert "'conv1.weight' has the shape (64, 1, 7, 7)" in refused(directory)
    del tensors["layer3.0.downsample.1.bias"]
    safetensors.numpy.save_file(tensors, file)
    assert "no 'layer3.0.downsample.1.bias'" in refused(directory)
    file.write_bytes(b"not weights at all")
    assert f"{file} cannot be read as safetensors" in refused(directory)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "diverged", "resnet18")
    tensors = made_up_tensors("resnet18")
    tensors["bn1.running_var"][3] = np.inf
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    with pytest.raises(UserError, match="'bn1.running_var' holds numbers that are not finite"):
        network_of(directory, "resnet18", (32, 32, 3))
