"""The last layer of a network: one for each label that it learns."""

import re
from collections.abc import Mapping
from typing import Any

from keras import layers

# The number of classes; or, by the name of a label, that of each.
Classes = int | Mapping[str, int]


def logits_of(x: Any, classes: Classes, **options: Any) -> Any:
    """Linear layers on features (B, C): float32 logits (B, classes), or a list of them, one for
    each label, in their order. `options`: of `keras.layers.Dense`.

    Raises ValueError for names of labels that would be the same as those of layers.
    """
    if isinstance(classes, int):
        return layers.Dense(classes, dtype="float32", name="logits", **options)(x)
    names = {name: plain_name(name) for name in classes}
    if len(set(names.values())) < len(names):
        raise ValueError(f"the labels {', '.join(names)} are too much alike: rename one")
    return [
        layers.Dense(number, dtype="float32", name=f"{names[name]}_logits", **options)(x)
        for name, number in classes.items()
    ]


def plain_name(label: str) -> str:
    """What parts of a model that belong to a label are called: TensorFlow takes ASCII letters,
    digits, and _ . - after the first. Other letters become their numbers."""
    plain = re.sub(
        r"[^\w.-]|[^\x00-\x7f]",
        lambda sign: f"u{ord(sign[0]):x}" if sign[0].isalnum() else "_",
        label,
    )
    return plain if re.match("[A-Za-z0-9]", plain) else f"label{plain}"
