"""What the tests of the networks share."""

import keras
import pytest

from models import build_image_model
from tests.single.models.small import CLASSES


@pytest.fixture(scope="session")
def resnet50():
    """The one model that is too big to build for each test."""
    keras.utils.set_random_seed(1)
    return build_image_model("resnet50", (32, 32, 3), CLASSES)
