"""The networks: Keras 3 functional models, found by name.

This package knows nothing of the application or of how training is distributed. Every model
carries its own preprocessing of numbers (pixel rescaling, padding masks), returns float32 logits
and names every layer, so that a variable has the same path in every process.
"""

from collections.abc import Callable, Mapping

import keras

from models.bag import build_bag
from models.cnn import build_cnn
from models.resnet import build_resnet18, build_resnet20, build_resnet50
from models.textcnn import build_textcnn
from models.transformer import build_transformer

Builder = Callable[..., keras.Model]

IMAGE_MODELS: dict[str, Builder] = {
    "cnn": build_cnn,
    "resnet20": build_resnet20,
    "resnet18": build_resnet18,
    "resnet50": build_resnet50,
}
TEXT_MODELS: dict[str, Builder] = {
    "bag": build_bag,
    "textcnn": build_textcnn,
    "transformer": build_transformer,
}

# A model's total downsampling: a smaller image would end as an empty map, or as padding alone.
SMALLEST_IMAGE_PIXELS: dict[str, int] = {"cnn": 4, "resnet20": 4, "resnet18": 8, "resnet50": 32}


def build_image_model(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    width: int | None = None,
    dropout: float | None = None,
) -> keras.Model:
    """Build the image classifier called `name`: float32 pixels (B, H, W, C) -> logits (B, classes).

    Args:
        name: a key of `IMAGE_MODELS`.
        image_shape: (height, width, channels) of one image; pixel values are 0 to 255.
        classes: the number of classes.
        width: filters of the first stage; None for the builder's own default.
        dropout: rate before the last layer, 0 <= dropout < 1; None for the builder's own default.

    Raises:
        ValueError: for an unknown name, an image that is too small, or a bad width or dropout.
    """
    builder = _find(IMAGE_MODELS, name, kind="image")
    smallest = SMALLEST_IMAGE_PIXELS[name]
    if min(image_shape[:2]) < smallest:
        raise ValueError(
            f"{name} needs images of at least {smallest} x {smallest} pixels, received "
            f"{image_shape[0]} x {image_shape[1]}; resize the images or choose a smaller model"
        )
    return builder(image_shape, classes, **_chosen(width, dropout))


def build_text_model(
    name: str,
    vocabulary_size: int,
    classes: int,
    *,
    max_tokens: int,
    width: int | None = None,
    dropout: float | None = None,
) -> keras.Model:
    """Build the text classifier called `name`: int32 token ids (B, T) -> logits (B, classes).

    T may differ from batch to batch. Id 0 is padding, at the end of a text; id 1 is an unknown
    token. Padding never changes the logits.

    Args:
        name: a key of `TEXT_MODELS`.
        vocabulary_size: the number of ids, 0 and 1 (and any n-gram ids) included.
        classes: the number of classes.
        max_tokens: the longest text, in tokens; only the transformer has such a limit.
        width: length of an embedding; None for the builder's own default.
        dropout: rate, 0 <= dropout < 1; None for the builder's own default.

    Raises:
        ValueError: for an unknown name, or a bad size, width or dropout.
    """
    builder = _find(TEXT_MODELS, name, kind="text")
    if vocabulary_size < 2:
        raise ValueError(
            f"vocabulary_size counts padding (id 0) and unknown (id 1) too, so it is at least 2; "
            f"received {vocabulary_size}"
        )
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, received {max_tokens}")
    return builder(vocabulary_size, classes, max_tokens=max_tokens, **_chosen(width, dropout))


def _find(models: Mapping[str, Builder], name: str, kind: str) -> Builder:
    if name not in models:
        valid = ", ".join(models)
        raise ValueError(f"unknown {kind} model {name!r}; the {kind} models are {valid}")
    return models[name]


def _chosen(width: int | None, dropout: float | None) -> dict[str, int | float]:
    """Check and return the options that were given; the builder's signature has the others."""
    if width is not None and width < 1:
        raise ValueError(f"width must be at least 1, received {width}")
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, received {dropout}")
    options = {"width": width, "dropout": dropout}
    return {option: value for option, value in options.items() if value is not None}
