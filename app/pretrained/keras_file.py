"""Networks of keras.applications, as files of `save_weights` hold them.

The file is of the network without its last layer (include_top=False): NAME.weights.h5, or the older
layout of Keras 2, NAME.h5, in which those for ImageNet are offered.
"""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from app.config import Config
from app.errors import UserError
from app.pretrained.found import Found

# Of each model: its name in keras.applications, and how many numbers its weights are.
NETWORKS = {"efficientnetv2": ("EfficientNetV2B0", 5_919_312)}
IMAGE_SIZE = 224
NEW, OLD = ".weights.h5", ".h5"


def read(config: Config, file: Path) -> Found:
    """Check that a file holds weights, and as many as the model has.

    Raises UserError if it does not.
    """
    if not file.is_file():
        raise UserError(f"pretrained = '{file}' is no file")
    name, wanted = NETWORKS[config.model.model]
    if file.suffix != OLD:
        raise UserError(f"{file} is not called *{NEW}: save it by save_weights('NAME{NEW}')")
    try:
        with h5py.File(file) as content:
            is_new, is_old = "layers" in content, "layer_names" in content.attrs
            numbers = _count(content)
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{file} cannot be read as HDF5: {error}") from None
    if not (is_new or is_old):
        raise UserError(f"{file} holds no weights of Keras: save it by save_weights('NAME{NEW}')")
    if is_new != file.name.endswith(NEW):
        raise UserError(f"{file}: rename it to *{NEW if is_new else OLD}, which Keras goes by")
    if numbers != wanted:
        raise UserError(
            f"{file} holds {numbers:,} numbers, and {name} with include_top=False has {wanted:,}: "
            "is it of another network?"
        )
    return Found([file], {}, image_size=IMAGE_SIZE)


def load(found: Found, network: Any) -> None:
    """Put the weights into a network of models.efficientnet, whose head stays as it is.

    Raises UserError for a layer of another shape, and for numbers that are not finite.
    """
    import keras

    (file,) = found.files
    # The layers are those of Keras' network in its order, by which its files go.
    encoder = keras.Model(network.input, network.get_layer("average").input)
    try:
        encoder.load_weights(file)
    except (ValueError, KeyError, OSError) as error:
        layer = re.search(r"(?:name=|path=|[Ll]ayer ')(\w+)", str(error))
        where = f", since '{layer[1]}' differs" if layer else ""
        message = f"{file} does not fit {network.name}{where}: is it of another network?"
        raise UserError(message) from None
    for variable in encoder.weights:
        if not np.isfinite(variable.numpy()).all():
            name = variable.path.partition("/")[0]
            raise UserError(f"{file}: '{name}' holds numbers that are not finite: get it again")


def _count(content: h5py.File) -> int:
    """How many floating-point numbers its arrays hold; random generators hold whole numbers."""
    sizes: list[int] = []

    def look(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            sizes.append(item.size)

    content.visititems(look)
    return sum(sizes)
