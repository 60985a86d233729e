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
    names = {name: re.sub(r"[^\w.-]", "_", name) for name in classes}
    if len(set(names.values())) < len(names):
        raise ValueError(f"the labels {', '.join(names)} are too much alike: rename one")
    return [
        layers.Dense(number, dtype="float32", name=f"{names[name]}_logits", **options)(x)
        for name, number in classes.items()
    ]
