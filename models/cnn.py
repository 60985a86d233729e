"""A small convolutional network, as in tutorials: the fastest model to train on small images."""

import keras
from keras import layers

from models.heads import Classes, logits_of
from models.layers import Dropout


def build_cnn(
    image_shape: tuple[int, int, int], classes: Classes, *, width: int = 16, dropout: float = 0.0
) -> keras.Model:
    """Two 3x3 convolutions of `width` and `2 * width` filters, pooled by 2, and a linear layer.

    Shaped like LeNet (LeCun et al. 1998; not on arXiv), with ReLU and max-pooling.
    Pixels (B, H, W, C) of 0 to 255 -> float32 logits (B, classes).
    """
    image = keras.Input(image_shape, dtype="float32", name="image")  # (B, H, W, C)
    x = layers.Rescaling(1 / 255, dtype="float32", name="pixels")(image)
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(2, name="pool1")(x)  # (B, H/2, W/2, width)
    x = layers.Conv2D(2 * width, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(2, name="pool2")(x)  # (B, H/4, W/4, 2 * width)
    x = layers.Flatten(name="flat")(x)
    x = Dropout(dropout, name="head_dropout")(x)
    logits = logits_of(x, classes)
    return keras.Model(image, logits, name="cnn")
