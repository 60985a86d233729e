"""Stochastic depth against its paper's definition, and as a random layer like dropout."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.classifier import Classifier
from app.state import Kind, reseed, state_variables
from models import build_image_model
from models.layers import Dropout
from tests.single.models.small import CLASSES, logits_of, random_images

BLOCKS = {"resnet20": 9, "resnet18": 8, "resnet50": 16}


def network(name: str = "resnet20", rate: float = 0.5, **options):
    keras.utils.set_random_seed(3)
    size = 32 if name == "resnet50" else 8
    options = {"width": 4, "stochastic_depth": rate, **options}
    return build_image_model(name, (size, size, 3), CLASSES, **options)


def drops(model) -> list[Dropout]:
    return [layer for layer in model.layers if layer.name.endswith("_depth")]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_probability_grows_in_proportion_to_the_number_of_the_block(name) -> None:
    found = drops(network(name, 0.4))
    expected = 0.4 * np.arange(1, BLOCKS[name] + 1) / BLOCKS[name]
    np.testing.assert_allclose([layer.rate for layer in found], expected)


def test_a_block_is_left_out_for_whole_images_and_what_stays_keeps_the_mean() -> None:
    model = network(rate=0.5)
    last = drops(model)[-1]
    block = np.random.default_rng(0).normal(size=(4000, 2, 2, 3)).astype(np.float32)
    out = last(tf.constant(block), training=True).numpy()
    left_out = (out == 0).all(axis=(1, 2, 3))
    assert left_out.mean() == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(out[~left_out], block[~left_out] / 0.5, rtol=1e-6)


def test_an_image_whose_blocks_are_all_left_out_goes_by_the_shortcuts() -> None:
    """With a probability of nearly 1 in every block: what is added is 0, so those that have no
    shortcut of their own give what they get."""
    model = network(rate=0.5)
    for layer in drops(model):
        layer.rate = 1 - 1e-7
    inner = keras.Model(
        model.input,
        [model.get_layer("stem_relu1").output, model.get_layer("layer1_block2_relu").output],
    )
    stem, stage = inner(random_images(3), training=True)
    np.testing.assert_allclose(stem.numpy(), stage.numpy(), rtol=1e-6)


def test_it_changes_nothing_after_training_nor_any_weight() -> None:
    plain, deep = network(rate=0.0), network(rate=0.5)
    assert not drops(plain)
    weights = {v.path: v for v in plain.variables if "seed_generator" not in v.path}
    of_deep = {v.path: v for v in deep.variables if "seed_generator" not in v.path}
    assert of_deep.keys() == weights.keys()
    for path, variable in of_deep.items():
        variable.assign(weights[path])
    images = random_images(3)
    np.testing.assert_array_equal(logits_of(deep, images), logits_of(plain, images))
    trained = deep(images, training=True).numpy()
    assert np.abs(trained - plain(images, training=True).numpy()).max() > 0


def test_ranks_draw_differently_and_a_resumed_run_the_same() -> None:
    classifier = Classifier(network(rate=0.5))
    derived = [e.path for e in state_variables(classifier) if e.kind is Kind.DERIVED]
    assert len([path for path in derived if "_depth/" in path]) == BLOCKS["resnet20"]
    ones = tf.ones((64, 1, 1, 1))

    def drawn(rank: int) -> list[np.ndarray]:
        reseed(classifier, seed=1, rank=rank, step=7)
        return [layer(ones, training=True).numpy() for layer in drops(classifier.network)]

    first, again, other = drawn(0), drawn(0), drawn(1)
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert sum((one != another).any() for one, another in zip(first, other, strict=True)) >= 8
