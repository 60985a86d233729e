"""A small classifier for the tests of what trains, keeps and compares one."""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest

from app.classifier import Classifier
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World
from models.layers import Dropout


@pytest.fixture(autouse=True)
def float32_policy() -> Iterator[None]:
    """A test that sets a dtype policy does not set it for the next."""
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def make_classifier() -> Callable[..., Classifier]:
    """Makes a compiled classifier of rows of 4 numbers, 3 classes."""

    def make(
        optimizer: keras.optimizers.Optimizer | None = None,
        *,
        batch_norm: bool = True,
        dropout: float = 0.5,
        seed: int = 0,
        label_smoothing: float = 0.0,
        width: int = 5,
        **options: object,
    ) -> Classifier:
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((4,), name="inputs")
        x = keras.layers.Dense(width, name="hidden")(inputs)
        if batch_norm:
            x = keras.layers.BatchNormalization(name="norm")(x)
        x = keras.layers.Activation("tanh", name="tanh")(x)
        x = Dropout(dropout, name="dropout")(x)
        logits = keras.layers.Dense(3, dtype="float32", name="logits")(x)
        classifier = Classifier(keras.Model(inputs, logits, name="network"), label_smoothing)
        inner = optimizer or keras.optimizers.Adam(0.01, name="adam")
        distributed = DistributedOptimizer(inner, world=World(), name="distributed", **options)
        classifier.compile(distributed)
        distributed.build(classifier.trainable_variables)
        return classifier

    return make


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray]:
    """Eight rows for that classifier, and their labels."""
    random = np.random.default_rng(0)
    return random.normal(size=(8, 4)).astype(np.float32), random.integers(0, 3, 8)
