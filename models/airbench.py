"""A convolutional network that learns CIFAR-10 in few epochs (Jordan 2024, arXiv 2404.00498)."""

from typing import Any

import keras
from keras import layers

from models.airbench_layers import Dirac, MeanOfViews, Whiten, WithViews, gelu
from models.heads import Classes, logits_of
from models.layers import BatchNormalization, Dropout

# The statistics follow the last few steps: the rate is high, and weights move far.
MOMENTUM = 0.6
LOGIT_SCALE = 1 / 9


def build_airbench(
    image_shape: tuple[int, int, int], classes: Classes, *, width: int = 64, dropout: float = 0.0
) -> keras.Model:
    """The network of airbench: a whitening layer, then three blocks of two 3x3 convolutions with
    `width`, `4 * width` and `4 * width` filters, each halved by max-pooling, with GELU.

    A convolution begins with its first filters passing their inputs on. BatchNorm has no scale.
    Where the network does not train, logits are a mean over six views of an image (`WithViews`): it
    costs six passes. The first layer is set from images by `Whiten.adapt_to_images`.
    Pixels (B, H, W, C) of 0 to 255 -> float32 logits (B, classes).
    """
    image = keras.Input(image_shape, dtype="float32", name="image")
    x = layers.Rescaling(1 / 255, dtype="float32", name="pixels")(image)
    x = WithViews(name="views")(x)
    x = Whiten(name="whiten")(x)  # (B, H-1, W-1, 8 * C)
    x = layers.Activation(gelu, name="whiten_gelu")(x)
    for number, factor in enumerate((1, 4, 4), 1):
        x = _block(x, factor * width, f"block{number}_")
    x = layers.GlobalMaxPooling2D(name="strongest")(x)  # (B, 4 * width)
    x = Dropout(dropout, name="head_dropout")(x)
    x = layers.Rescaling(LOGIT_SCALE, dtype="float32", name="logit_scale")(x)
    outputs = logits_of(x, classes)
    heads = outputs if isinstance(outputs, list) else [outputs]
    means = [
        MeanOfViews(dtype="float32", name=f"mean_{number}")(one) for number, one in enumerate(heads)
    ]
    return keras.Model(image, means if isinstance(outputs, list) else means[0], name="airbench")


def _block(x: Any, filters: int, name: str) -> Any:
    """(B, H, W, C) -> (B, H/2, W/2, filters)."""
    for number in (1, 2):
        x = layers.Conv2D(
            filters,
            3,
            padding="same",
            use_bias=False,
            kernel_initializer=Dirac(),
            name=f"{name}conv{number}",
        )(x)
        if number == 1:
            x = layers.MaxPooling2D(2, name=f"{name}pool")(x)
        x = BatchNormalization(
            momentum=MOMENTUM, epsilon=1e-5, scale=False, name=f"{name}norm{number}"
        )(x)
        x = layers.Activation(gelu, name=f"{name}gelu{number}")(x)
    return x
