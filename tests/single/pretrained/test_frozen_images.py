"""Encoders of images: what is frozen, BatchNorm too, and at which rates their stages learn."""

from typing import Any

import keras
import numpy as np
import pytest

from app import recipe
from app.build import build_optimizer, build_schedule
from app.classifier import Classifier
from app.config import Config
from app.distributed.world import World
from app.pretrained.fine_tuning import freeze, rates
from app.pretrained.timm import tensors_of
from app.state import Kind, state_variables
from models.resnet import build_resnet18
from tests.single.pretrained.timm_files import MEAN, STD

CLASSES = 3


def config(**keys: Any) -> Config:
    given = {"model": "resnet18", "pretrained": "somewhere", "learning_rate": 0.01, **keys}
    return recipe.load(None, given)


def learn(wanted: Config, classifier: Classifier, unfrozen: bool) -> set[str]:
    """Two steps; the paths of the variables that have changed."""
    freeze(wanted, classifier.network, unfrozen)
    optimizer = build_optimizer(wanted, build_schedule(wanted, 1), World())
    classifier.compile(optimizer, run_eagerly=True)  # quicker than to trace two steps
    before = {v.path: v.numpy() for v in classifier.network.variables}
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    classifier.fit(images, np.arange(8) % CLASSES, batch_size=4, verbose=0)
    return {
        v.path
        for v in classifier.network.variables
        if not np.array_equal(v.numpy(), before[v.path])
    }


def test_of_a_frozen_encoder_not_even_statistics_move() -> None:
    wanted, pretrained = config(freeze="encoder"), {"mean": MEAN, "std": STD}
    keras.utils.set_random_seed(0)
    classifier = Classifier(
        build_resnet18((32, 32, 3), CLASSES, width=4, pretrained=pretrained)  # narrow: it is quick
    )
    assert learn(wanted, classifier, unfrozen=False) == {"logits/kernel", "logits/bias"}
    kinds = {entry.path: entry.kind for entry in state_variables(classifier)}
    assert kinds["stem_norm1/moving_mean"] is Kind.REPLICATED  # ranks are compared, not averaged

    moved = learn(wanted, classifier, unfrozen=True)
    assert moved == {v.path for v in classifier.network.variables}
    kinds = {entry.path: entry.kind for entry in state_variables(classifier)}
    assert kinds["stem_norm1/moving_mean"] is Kind.AVERAGED


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_each_stage_of_a_resnet_learns_at_its_own_rate(model: str) -> None:
    paths = [*tensors_of(model), "logits/kernel"]
    keys = {"model": model, "encoder_learning_rate": 0.001, "layer_decay": 0.5}
    found = dict(zip(paths, rates(config(**keys), paths), strict=True))
    assert found["logits/kernel"] == 1
    assert found["layer4_block1_norm2/gamma"] == pytest.approx(0.1)
    assert found["layer4_block0_shortcut_conv/kernel"] == pytest.approx(0.1)
    assert found["layer1_block0_conv1/kernel"] == pytest.approx(0.1 * 0.5**3)
    assert found["stem_conv1/kernel"] == pytest.approx(0.1 * 0.5**4)


def test_each_stage_of_efficientnetv2_learns_at_its_own_rate() -> None:
    paths = ["stem_conv/kernel", "block1a_project_bn/gamma", "block2a_expand_conv/kernel"]
    paths += ["block2b_expand_conv/kernel", "top_bn/gamma", "logits/bias"]
    wanted = config(model="efficientnetv2", layer_decay=0.5)
    assert rates(wanted, paths) == [0.125, 0.25, 0.5, 0.5, 1, 1]
