"""The networks: Keras 3 functional models, found by name in `models.table`.

This package knows nothing about the application or how training is distributed. Every model does
its own numeric preprocessing (pixel rescaling, padding masks), returns float32 logits and names
every layer, so that a variable has the same path in every process.

Keras is imported only when a model is built: the names must be available without it.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from models.table import MODELS, Model, names_of

if TYPE_CHECKING:
    import keras

    from models.heads import Classes


def build_image_model(
    name: str,
    image_shape: tuple[int, int, int],
    classes: "Classes",
    *,
    width: int | None = None,
    dropout: float | None = None,
    stochastic_depth: float | None = None,
    pretrained: Mapping[str, Any] | None = None,
) -> "keras.Model":
    """Build the image classifier called `name`: float32 pixels (B, H, W, C) -> logits (B, classes).

    Args:
        name: an image model of `models.table`.
        image_shape: (height, width, channels) of one image; pixel values are 0 to 255.
        classes: the number of classes; or, of several labels, the number of each by its name, and
            the network returns a list of logits.
        width: filters of the first stage; None for the builder's own default.
        dropout: rate before the last layer, 0 <= dropout < 1; None for the builder's own default.
        stochastic_depth: probability of leaving out the last block of a residual network, from 0
            to below 1; None where there is none.
        pretrained: what a builder must know of weights that will be loaded into it, such as the
            mean and standard deviation of pixels; None if there are none.

    Raises:
        ValueError: for an unknown name, an image that is too small, or a bad width or dropout.
    """
    model = _find(name, kind="image")
    model.check_image(*image_shape[:2])
    options = _chosen(width, dropout, pretrained)
    if stochastic_depth is not None:
        model.check_depth()
        if not 0 <= stochastic_depth < 1:
            raise ValueError(
                f"stochastic_depth must be at least 0 and below 1, received {stochastic_depth}"
            )
        options["stochastic_depth"] = stochastic_depth
    return _build(model, image_shape, classes, **options)


def build_text_model(
    name: str,
    vocabulary_size: int,
    classes: "Classes",
    *,
    max_tokens: int,
    width: int | None = None,
    dropout: float | None = None,
    pretrained: Mapping[str, Any] | None = None,
) -> "keras.Model":
    """Build the text classifier called `name`: int32 token ids (B, T) -> logits (B, classes).

    T may differ from batch to batch. Id 0 is padding, at the end of a text; id 1 is an unknown
    token. Padding never changes the logits. A network may also take a dict of such tensors, if its
    tokenizer returns one.

    Args:
        name: a text model of `models.table`.
        vocabulary_size: the number of ids, 0 and 1 (and any n-gram ids) included.
        classes: the number of classes; or, of several labels, the number of each by its name, and
            the network returns a list of logits.
        max_tokens: the longest text, in tokens; only transformers have such a limit.
        width: the length of an embedding; None for the builder's own default.
        dropout: rate, 0 <= dropout < 1; None for the builder's own default.
        pretrained: the sizes of an encoder whose weights will be loaded into it; None if there are
            none.

    Raises:
        ValueError: for an unknown name, or a bad size, width or dropout.
    """
    model = _find(name, kind="text")
    if vocabulary_size < 2:
        raise ValueError(
            f"vocabulary_size includes padding (id 0) and unknown (id 1), so it must be at least "
            f"2; received {vocabulary_size}"
        )
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, received {max_tokens}")
    options = _chosen(width, dropout, pretrained)
    return _build(model, vocabulary_size, classes, max_tokens=max_tokens, **options)


def _find(name: str, kind: str) -> Model:
    if name not in names_of(kind):
        valid = ", ".join(names_of(kind))
        raise ValueError(f"unknown {kind} model {name!r}; the {kind} models are {valid}")
    return MODELS[name]


def _build(model: Model, *sizes: object, **options: object) -> "keras.Model":
    if model.needs_pretrained and "pretrained" not in options:
        raise ValueError(f"{model.name} is not trained from nothing: it needs pretrained weights")
    if options.get("pretrained") and "width" in options:
        raise ValueError("pretrained weights bring their own width; leave it out")
    builder = getattr(importlib.import_module(model.module), model.function)
    return builder(*sizes, **options)


def _chosen(
    width: int | None, dropout: float | None, pretrained: Mapping[str, Any] | None
) -> dict[str, object]:
    """Check and return the options that were given; the builder has defaults for the others."""
    if width is not None and width < 1:
        raise ValueError(f"width must be at least 1, received {width}")
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, received {dropout}")
    options = {"width": width, "dropout": dropout, "pretrained": pretrained}
    return {option: value for option, value in options.items() if value is not None}
