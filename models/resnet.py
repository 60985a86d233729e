"""Residual networks (He et al. 2015, arXiv 1512.03385).

`resnet20` and `resnet18` are written out here; `resnet50` is that of `keras.applications`.
None has an L2 regulariser: the optimizer decays the weights.
"""

from typing import Any

import keras
from keras import layers

from models.layers import Dropout

# He et al. use 0.9 where Keras has 0.99. The moving statistics then follow the last 10 or so steps
# instead of 100: with many workers an epoch has few steps, and slow statistics would describe
# weights long gone, so the measured accuracy would lag behind the model.
BATCH_NORM_MOMENTUM = 0.9

# From this size up, resnet18 begins as it does for ImageNet, with a stem that divides by four.
IMAGENET_STEM_PIXELS = 96


def build_resnet20(
    image_shape: tuple[int, int, int], classes: int, *, width: int = 16, dropout: float = 0.0
) -> keras.Model:
    """ResNet-20 for CIFAR (arXiv 1512.03385, section 4.2): 3 stages of 3 basic blocks.

    The stages have `width`, `2 * width` and `4 * width` filters. Where the shape changes, the
    shortcut is a 1x1 convolution (type B); the paper's CIFAR networks pad with zero channels
    (type A). That adds 1 % of parameters, and saves a custom layer.
    Pixels (B, H, W, C) of 0 to 255 -> float32 logits (B, classes).
    """
    image, x = _centred_pixels(image_shape)
    x = _conv_norm(x, width, name="stem", activation="relu")
    x = _stages(x, width, blocks_per_stage=(3, 3, 3))  # (B, H/4, W/4, 4 * width)
    return _classifier(image, x, classes, dropout, name="resnet20")


def build_resnet18(
    image_shape: tuple[int, int, int], classes: int, *, width: int = 64, dropout: float = 0.0
) -> keras.Model:
    """ResNet-18 (arXiv 1512.03385, table 1): 4 stages of 2 basic blocks.

    The stages have `width` to `8 * width` filters. Images of 96 pixels or more on both sides enter
    by the paper's stem (7x7 convolution of stride 2, max-pooling); smaller ones by a 3x3
    convolution that keeps their size, as is usual for CIFAR.
    Pixels (B, H, W, C) of 0 to 255 -> float32 logits (B, classes).
    """
    image, x = _centred_pixels(image_shape)
    if min(image_shape[:2]) >= IMAGENET_STEM_PIXELS:
        x = _conv_norm(x, width, kernel=7, stride=2, name="stem", activation="relu")
        x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    else:
        x = _conv_norm(x, width, name="stem", activation="relu")
    x = _stages(x, width, blocks_per_stage=(2, 2, 2, 2))  # 1/8 (small) or 1/32 of H and W
    return _classifier(image, x, classes, dropout, name="resnet18")


def build_resnet50(
    image_shape: tuple[int, int, int], classes: int, *, width: int = 64, dropout: float = 0.0
) -> keras.Model:
    """ResNet-50 (arXiv 1512.03385, table 1) from `keras.applications`, with new weights.

    Pixels (B, H, W, C) of 0 to 255 -> float32 logits (B, classes).

    Raises:
        ValueError: for a width other than 64, which `keras.applications` does not offer.
    """
    if width != 64:
        raise ValueError(f"resnet50 only has width 64, received {width}; leave out the width")
    image, x = _centred_pixels(image_shape)
    backbone = keras.applications.ResNet50(
        include_top=False, weights=None, input_tensor=x, input_shape=image_shape, name="resnet50"
    )
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = BATCH_NORM_MOMENTUM
    # (B, H/32, W/32, 2048)
    return _classifier(image, backbone.output, classes, dropout, name="resnet50")


def _centred_pixels(image_shape: tuple[int, int, int]) -> tuple[Any, Any]:
    """Return the model's input, 0 to 255, and the same in -1 to 1; both (B, H, W, C)."""
    image = keras.Input(image_shape, dtype="float32", name="image")
    return image, layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="pixels")(image)


def _stages(x: Any, width: int, blocks_per_stage: tuple[int, ...]) -> Any:
    """Stack the stages: each after the first halves height and width and doubles the filters."""
    for stage, blocks in enumerate(blocks_per_stage):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            name = f"stage{stage + 1}_block{block + 1}"
            x = _basic_block(x, width * 2**stage, stride, name)
    return x


def _basic_block(x: Any, filters: int, stride: int, name: str) -> Any:
    """Two 3x3 convolutions around a shortcut: (B, H, W, C) -> (B, H/stride, W/stride, filters)."""
    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        shortcut = _conv_norm(x, filters, kernel=1, stride=stride, name=f"{name}_shortcut")
    x = _conv_norm(x, filters, stride=stride, name=f"{name}_1", activation="relu")
    x = _conv_norm(x, filters, name=f"{name}_2")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("relu", name=f"{name}_relu")(x)


def _conv_norm(
    x: Any, filters: int, *, name: str, kernel: int = 3, stride: int = 1, activation: str = ""
) -> Any:
    """Convolution without a bias (the normalisation has one), BatchNorm and, if named, ReLU."""
    x = layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",  # arXiv 1502.01852: keeps the variance through ReLUs
        name=f"{name}_conv",
    )(x)
    norm = layers.BatchNormalization(
        momentum=BATCH_NORM_MOMENTUM, epsilon=1e-5, name=f"{name}_norm"
    )
    x = norm(x)
    return layers.Activation(activation, name=f"{name}_{activation}")(x) if activation else x


def _classifier(image: Any, x: Any, classes: int, dropout: float, name: str) -> keras.Model:
    """Finish a model: average over height and width, dropout, linear layer."""
    x = layers.GlobalAveragePooling2D(name="average")(x)  # (B, C)
    x = Dropout(dropout, name="head_dropout")(x)
    logits = layers.Dense(classes, dtype="float32", name="logits")(x)  # (B, classes)
    return keras.Model(image, logits, name=name)
