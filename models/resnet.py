"""Residual networks (He et al. 2015, arXiv 1512.03385), padded and named as in PyTorch and timm, so
that their weights fit.

None has an L2 regulariser: the optimizer decays the weights.

`stochastic_depth` is the probability that the last block is left out for an image in training
(Huang et al. 2016, arXiv:1603.09382); of block l of L it is l / L of that. Images are drawn one by
one, as in torchvision and timm, where the paper draws for a batch. What stays is divided by the
probability that it does, so that nothing changes after training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers

from models.heads import Classes
from models.images import BATCH_NORM_MOMENTUM, check_color, classifier
from models.layers import BatchNormalization, Dropout

# From this size up, resnet18 begins as it does for ImageNet, with a stem that divides by four.
IMAGENET_STEM_PIXELS = 96


def build_resnet20(
    image_shape: tuple[int, int, int],
    classes: Classes,
    *,
    width: int = 16,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """ResNet-20 for CIFAR (arXiv 1512.03385, section 4.2): 3 stages of 3 basic blocks.

    The stages have `width`, `2 * width` and `4 * width` filters. Where the shape changes, the
    shortcut is a 1x1 convolution (type B); the paper's CIFAR networks pad with zero channels
    (type A). That adds 1 % of parameters, and saves a custom layer.
    Pixels (B, H, W, C) of 0 to 255 -> float32 logits (B, classes).
    """
    image, x = _scaled_pixels(image_shape)
    x = _small_stem(x, width)
    x = _stages(x, width, (3, 3, 3), _basic_block, stochastic_depth)  # (B, H/4, W/4, 4 * width)
    return classifier(image, x, classes, dropout, name="resnet20")


def build_resnet18(
    image_shape: tuple[int, int, int],
    classes: Classes,
    *,
    width: int = 64,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    pretrained: Mapping[str, Any] | None = None,
) -> keras.Model:
    """ResNet-18 (arXiv 1512.03385, table 1): 4 stages of 2 basic blocks.

    The stages have `width` to `8 * width` filters. Images of 96 pixels or more on both sides, and
    all if weights are pretrained, enter by the paper's stem (7x7 convolution of stride 2,
    max-pooling); smaller ones by a 3x3 convolution that keeps their size, as is usual for CIFAR.
    Pixels (B, H, W, C) of 0 to 255 -> float32 logits (B, classes).

    `pretrained`: "mean" and "std" of the pixels of each channel, 0 to 1, that weights were trained
    on; None: pixels are scaled to -1 to 1.

    Raises:
        ValueError: for images that pretrained weights cannot read.
    """
    image, x = _scaled_pixels(image_shape, pretrained)
    large = pretrained is not None or min(image_shape[:2]) >= IMAGENET_STEM_PIXELS
    x = _imagenet_stem(x, width) if large else _small_stem(x, width)
    # 1/8 (small) or 1/32 of H and W
    x = _stages(x, width, (2, 2, 2, 2), _basic_block, stochastic_depth)
    return classifier(image, x, classes, dropout, name="resnet18")


def build_resnet50(
    image_shape: tuple[int, int, int],
    classes: Classes,
    *,
    width: int = 64,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    pretrained: Mapping[str, Any] | None = None,
) -> keras.Model:
    """ResNet-50 (arXiv 1512.03385, table 1): 3, 4, 6 and 3 bottleneck blocks.

    The stages have `4 * width` to `32 * width` filters. As in PyTorch and timm ("v1.5"), a block
    that halves height and width does so in its 3x3 convolution, and not in its first 1x1.
    Pixels (B, H, W, C) of 0 to 255 -> float32 logits (B, classes). `pretrained`: see
    `build_resnet18`.

    Raises:
        ValueError: for images that pretrained weights cannot read.
    """
    image, x = _scaled_pixels(image_shape, pretrained)
    x = _imagenet_stem(x, width)
    # (B, H/32, W/32, 32 * width)
    x = _stages(x, width, (3, 4, 6, 3), _bottleneck_block, stochastic_depth)
    return classifier(image, x, classes, dropout, name="resnet50")


def _scaled_pixels(
    image_shape: tuple[int, int, int], pretrained: Mapping[str, Any] | None = None
) -> tuple[Any, Any]:
    """The model's input, 0 to 255, and the same in -1 to 1, or as pretrained weights expect it;
    both (B, H, W, C)."""
    image = keras.Input(image_shape, dtype="float32", name="image")
    scale: Any = 1 / 127.5
    offset: Any = -1
    if pretrained is not None:
        check_color(image_shape)
        mean, std = pretrained["mean"], pretrained["std"]
        scale = [1 / (255 * one) for one in std]
        offset = [-middle / one for middle, one in zip(mean, std, strict=True)]
    return image, layers.Rescaling(scale, offset, dtype="float32", name="pixels")(image)


def _small_stem(x: Any, width: int) -> Any:
    """For small images: (B, H, W, C) -> (B, H, W, width)."""
    return _conv_norm(x, width, "stem_", 1, relu=True)


def _imagenet_stem(x: Any, width: int) -> Any:
    """(B, H, W, C) -> (B, H/4, W/4, width)."""
    x = _conv_norm(x, width, "stem_", 1, kernel=7, stride=2, relu=True)
    # Zeros around what a ReLU gives are never above the largest of it.
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    return layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)


def _stages(
    x: Any, width: int, blocks_per_stage: Sequence[int], block_of: Any, stochastic_depth: float
) -> Any:
    """Stack the stages: each after the first halves height and width and doubles the filters."""
    number = 0
    for stage, blocks in enumerate(blocks_per_stage):
        for block in range(blocks):
            number += 1
            stride = 2 if stage > 0 and block == 0 else 1
            drop = stochastic_depth * number / sum(blocks_per_stage)
            x = block_of(x, width * 2**stage, stride, f"layer{stage + 1}_block{block}_", drop)
    return x


def _basic_block(x: Any, filters: int, stride: int, name: str, drop: float) -> Any:
    """Two 3x3 convolutions around a shortcut: (B, H, W, C) -> (B, H/stride, W/stride, filters)."""
    inputs = x
    x = _conv_norm(x, filters, name, 1, stride=stride, relu=True)
    x = _conv_norm(x, filters, name, 2)
    return _join(inputs, x, stride, name, drop)


def _bottleneck_block(x: Any, filters: int, stride: int, name: str, drop: float) -> Any:
    """1x1, 3x3 and 1x1 convolutions around a shortcut: (B, H, W, C) -> (B, H/stride, W/stride,
    4 * filters)."""
    inputs = x
    x = _conv_norm(x, filters, name, 1, kernel=1, relu=True)
    x = _conv_norm(x, filters, name, 2, stride=stride, relu=True)
    x = _conv_norm(x, 4 * filters, name, 3, kernel=1)
    return _join(inputs, x, stride, name, drop)


def _join(inputs: Any, x: Any, stride: int, name: str, drop: float) -> Any:
    """Add a block's inputs, through a 1x1 convolution if the shape has changed, and ReLU. `drop`:
    the probability that the inputs stay alone."""
    if drop:
        x = Dropout(drop, (None, 1, 1, 1), name=f"{name}depth")(x)
    if stride != 1 or inputs.shape[-1] != x.shape[-1]:
        inputs = _conv_norm(inputs, x.shape[-1], f"{name}shortcut_", kernel=1, stride=stride)
    x = layers.Add(name=f"{name}add")([x, inputs])
    return layers.Activation("relu", name=f"{name}relu")(x)


def _conv_norm(
    x: Any,
    filters: int,
    name: str,
    number: int | str = "",
    *,
    kernel: int = 3,
    stride: int = 1,
    relu: bool = False,
) -> Any:
    """Convolution without a bias (the normalisation has one), BatchNorm and, if asked for, ReLU.

    Padded alike on all sides, as in PyTorch; "same" pads less on the left where it strides.
    """
    padding = "same" if stride == 1 else "valid"
    if stride > 1 and kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}pad{number}")(x)
    x = layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding=padding,
        use_bias=False,
        kernel_initializer="he_normal",  # arXiv 1502.01852: keeps the variance through ReLUs
        name=f"{name}conv{number}",
    )(x)
    norm = BatchNormalization(
        momentum=BATCH_NORM_MOMENTUM, epsilon=1e-5, name=f"{name}norm{number}"
    )
    x = norm(x)
    return layers.Activation("relu", name=f"{name}relu{number}")(x) if relu else x
