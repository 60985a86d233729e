"""What the networks for images share."""

from typing import Any

import keras
from keras import layers

from models.heads import Classes, logits_of
from models.layers import Dropout

# He et al. use 0.9 where Keras has 0.99. The moving statistics then follow the last 10 or so steps
# instead of 100: with many workers an epoch has few steps, and slow statistics would describe
# weights long gone, so the measured accuracy would lag behind the model.
BATCH_NORM_MOMENTUM = 0.9


def check_color(image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError for images that weights of color images do not fit."""
    if image_shape[2] != 3:
        raise ValueError(
            f"pretrained weights are for color images of 3 channels, received {image_shape[2]}; "
            "convert the images to RGB, or leave the weights out"
        )


def classifier(image: Any, x: Any, classes: Classes, dropout: float, name: str) -> keras.Model:
    """Finish a model: average over height and width, dropout, linear layer."""
    x = layers.GlobalAveragePooling2D(name="average")(x)  # (B, C)
    x = Dropout(dropout, name="head_dropout")(x)
    logits = logits_of(x, classes)
    return keras.Model(image, logits, name=name)
