"""EfficientNetV2 (Tan and Le 2021, arXiv 2104.00298), as `keras.applications` has it."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

from models.heads import Classes
from models.images import BATCH_NORM_MOMENTUM, check_color, classifier
from models.layers import BatchNormalization, Dropout


def build_efficientnetv2(
    image_shape: tuple[int, int, int],
    classes: Classes,
    *,
    width: int | None = None,
    dropout: float = 0.0,
    pretrained: Mapping[str, Any] | None = None,
) -> keras.Model:
    """EfficientNetV2-B0, which prepares pixels itself, as its weights for ImageNet need it.

    In training, blocks are left out at random for single images, the last one for 19 %; `dropout`
    is that before the last layer. Pixels (B, H, W, C) of 0 to 255 -> float32 logits (B, classes).

    Raises:
        ValueError: for a width, or for images that pretrained weights do not fit.
    """
    if width is not None:
        raise ValueError(f"efficientnetv2 has one width only, received {width}; leave it out")
    if pretrained is not None:
        check_color(image_shape)
    image = keras.Input(image_shape, dtype="float32", name="image")
    of_keras = keras.applications.EfficientNetV2B0(
        include_top=False, weights=None, input_shape=image_shape
    )
    encoder = keras.models.clone_model(of_keras, input_tensors=image, clone_function=_adapted)
    # (B, H/32, W/32, 1280)
    return classifier(image, encoder.output, classes, dropout, name="efficientnetv2")


def _adapted(layer: layers.Layer) -> layers.Layer:
    """A new layer like one of Keras' network, but with names that are the same in every process."""
    config = layer.get_config()
    if isinstance(layer, layers.Dropout):
        return Dropout(layer.rate, layer.noise_shape, name=layer.name)
    if isinstance(layer, layers.Rescaling):
        config |= {"name": "pixels", "dtype": "float32"}
    elif isinstance(layer, layers.Normalization):
        config |= {"name": "pixels_normalized", "dtype": "float32"}
    elif isinstance(layer, layers.BatchNormalization):
        return BatchNormalization.from_config({**config, "momentum": BATCH_NORM_MOMENTUM})
    return type(layer).from_config(config)
