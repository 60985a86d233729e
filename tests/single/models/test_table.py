"""The table of models: what is offered, what is refused, sizes and names."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest

import models
from models import build_image_model, build_text_model
from models.table import MODELS
from tests.single.models.small import (
    CLASSES,
    DEEP_IMAGE,
    IMAGES,
    MAX_TOKENS,
    NARROW_IMAGE,
    TEXTS,
    VOCABULARY_SIZE,
    logits_of,
    small_model,
)

PARAMETERS = {
    "cnn": 25_578,
    "airbench": 1_973_954,
    "resnet20": 274_042,
    "resnet18": 11_183_562,
    "resnet50": 23_581_642,
    "efficientnetv2": 5_932_122,
    "bag": 129_290,
    "textcnn": 328_842,
    "transformer": 534_282,
}


def test_every_model_of_the_table_is_in_the_readme() -> None:
    readme = (Path(models.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert IMAGES and TEXTS and {*IMAGES, *TEXTS} == MODELS.keys()
    assert [name for name in MODELS if f"`{name}`" not in readme] == []


def test_an_unknown_name_is_answered_with_the_valid_ones():
    with pytest.raises(ValueError, match="'resnet19'.*cnn, resnet20, resnet18, resnet50"):
        build_image_model("resnet19", (32, 32, 3), CLASSES)
    with pytest.raises(ValueError, match="'cnn'.*bag, textcnn, transformer"):
        build_text_model("cnn", VOCABULARY_SIZE, CLASSES, max_tokens=MAX_TOKENS)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_is_too_small_is_answered_with_the_smallest_size(name):
    smallest = MODELS[name].smallest_image_pixels
    with pytest.raises(ValueError, match=f"{name} .*at least {smallest} x {smallest} pixels"):
        build_image_model(name, (64, smallest - 1, 3), CLASSES)


@pytest.mark.parametrize("name", NARROW_IMAGE)
def test_the_smallest_image_works(name):
    smallest = MODELS[name].smallest_image_pixels
    model = build_image_model(name, (smallest, smallest, 1), CLASSES, width=NARROW_IMAGE[name])
    assert logits_of(model, np.zeros((2, smallest, smallest, 1), "float32")).shape == (2, CLASSES)


def test_stochastic_depth_is_for_residual_networks():
    for name in ("cnn", "efficientnetv2"):
        with pytest.raises(ValueError, match="use resnet20, resnet18, resnet50, or leave it out"):
            build_image_model(name, (32, 32, 3), CLASSES, stochastic_depth=0.1)
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"below 1, received {rate}"):
            build_image_model("resnet20", (8, 8, 3), CLASSES, stochastic_depth=rate)


@pytest.mark.parametrize("option", [{"width": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_bad_options_are_refused(option):
    ((key, value),) = option.items()
    with pytest.raises(ValueError, match=f"{key} must be at least .*received {value}"):
        build_image_model("cnn", (8, 8, 1), CLASSES, **option)
    with pytest.raises(ValueError, match=f"{key} must be at least .*received {value}"):
        build_text_model("bag", VOCABULARY_SIZE, CLASSES, max_tokens=MAX_TOKENS, **option)


def test_sizes_that_a_model_cannot_have_are_refused():
    with pytest.raises(ValueError, match="vocabulary_size .* at least 2; received 1"):
        build_text_model("bag", 1, CLASSES, max_tokens=MAX_TOKENS)
    with pytest.raises(ValueError, match="max_tokens must be at least 1, received 0"):
        build_text_model("bag", VOCABULARY_SIZE, CLASSES, max_tokens=0)
    with pytest.raises(ValueError, match="multiple of 4, received 6"):
        build_text_model("transformer", VOCABULARY_SIZE, CLASSES, max_tokens=MAX_TOKENS, width=6)
    with pytest.raises(ValueError, match="efficientnetv2 has one width only, received 32"):
        build_image_model("efficientnetv2", (32, 32, 3), CLASSES, width=32)


# Sizes and names.


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_pinned(name, deep):
    if name in deep:
        model = deep[name]
    elif name in IMAGES:
        model = build_image_model(name, (32, 32, 3), CLASSES, dropout=0)
    else:
        model = build_text_model(name, 1000, CLASSES, max_tokens=64, dropout=0)
    assert model.count_params() == PARAMETERS[name]


@pytest.mark.parametrize("name", [*NARROW_IMAGE, *TEXTS, *DEEP_IMAGE])
def test_names_are_the_same_however_many_models_were_built(name, deep):
    if name in deep:
        first, second = deep[name], build_image_model(name, (32, 32, 3), CLASSES)
    else:
        first, second = small_model(name), small_model(name)
        assert any("seed_generator_state" in v.path for v in first.variables)  # the hard case
    assert first.name == second.name == name
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    paths = [variable.path for variable in first.variables]
    assert paths == [variable.path for variable in second.variables]
    assert len(set(paths)) == len(paths)


def test_batch_norm_of_every_network_forgets_at_the_same_rate(deep):
    for model in (*deep.values(), small_model("resnet20"), small_model("resnet18")):
        norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
        assert norms
        assert {norm.momentum for norm in norms} == {0.9}


def test_resnet18_takes_its_stem_by_image_size():
    small = build_image_model("resnet18", (95, 96, 3), CLASSES, width=2)
    large = build_image_model("resnet18", (96, 96, 3), CLASSES, width=2)
    assert small.get_layer("stem_conv1").kernel_size == (3, 3)
    assert large.get_layer("stem_conv1").kernel_size == (7, 7)
    assert large.get_layer("average").input.shape[1:3] == (3, 3)


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].kind == "image"])
def test_the_stages_of_an_encoder_are_all_but_its_head(name, deep):
    model, of = deep.get(name) or small_model(name), MODELS[name].stage_of
    if not MODELS[name].stages:
        assert not MODELS[name].pretrained
        return
    head = {layer.name for layer in model.layers if layer.weights and not of(layer.name)}
    assert head == {"logits"}
    stages = list(dict.fromkeys(filter(None, (of(layer.name) for layer in model.layers))))
    of_resnet = ["stem", "layer1", "layer2", "layer3", "layer4"]
    of_efficientnet = ["stem", *(f"block{number}" for number in range(1, 7)), "top"]
    assert stages == (of_efficientnet if name == "efficientnetv2" else of_resnet)


# What this package may know.


def test_models_import_neither_the_application_nor_horovod():
    allowed = {"collections", "importlib", "re", "typing"}
    allowed |= {"numpy", "keras", "tensorflow", "models"}
    for file in Path(models.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file.name}: a relative import"
                imported = {(node.module or "").split(".")[0]}
            else:
                continue
            assert imported <= allowed, f"{file.name} imports {imported - allowed}"
