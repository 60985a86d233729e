"""What the tests of the networks share."""

import keras
import pytest

from models import build_image_model
from tests.single.models.small import CLASSES, DEEP_IMAGE


@pytest.fixture(scope="session")
def deep():
    """The models that are too big to build for each test, by name."""
    keras.utils.set_random_seed(1)
    return {name: build_image_model(name, (32, 32, 3), CLASSES) for name in DEEP_IMAGE}
