"""Small networks, and what they read."""

import keras
import numpy as np
import pytest

from models import build_image_model, build_text_model
from models.table import MODELS, names_of

CLASSES = 10
VOCABULARY_SIZE = 50
MAX_TOKENS = 16
# Narrow models for what does not depend on width; the others are too deep for many tests.
NARROW_IMAGE = {"cnn": 4, "resnet20": 4, "resnet18": 4}
DEEP_IMAGE = ["resnet50", "efficientnetv2"]
IMAGES, TEXTS = names_of("image"), names_of("text")
ENCODER = {"tokens": VOCABULARY_SIZE, "width": 8, "blocks": 2, "heads": 2, "hidden": 12}
ENCODER |= {"positions": MAX_TOKENS, "kinds": 2, "activation": "gelu", "epsilon": 1e-12}
ENCODER |= {"pooling": "mean"}


def small_model(name, dropout=0.1):
    if name in TEXTS:
        own = {"pretrained": ENCODER} if MODELS[name].needs_pretrained else {"width": 8}
        sizes = {"max_tokens": MAX_TOKENS, **own}
        return build_text_model(name, VOCABULARY_SIZE, CLASSES, dropout=dropout, **sizes)
    pixels = max(8, MODELS[name].smallest_image_pixels)
    width = NARROW_IMAGE.get(name, 4)
    return build_image_model(name, (pixels, pixels, 3), CLASSES, width=width, dropout=dropout)


def random_images(count, pixels=8):
    return np.random.default_rng(0).uniform(0, 255, (count, pixels, pixels, 3)).astype("float32")


def random_tokens(count, length=7):
    return np.random.default_rng(0).integers(1, VOCABULARY_SIZE, (count, length), dtype="int32")


def random_inputs(name, count):
    return random_tokens(count) if name in TEXTS else random_images(count)


def logits_of(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs, training=False))


small_models = pytest.mark.parametrize("name", [*NARROW_IMAGE, *TEXTS])
text_models = pytest.mark.parametrize("name", TEXTS)
