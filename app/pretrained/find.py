"""The formats of pretrained weights.

A new one is a file with `read(config, place) -> Found`, which finds and checks weights, and
`load(found, network)`, which puts them into a network; and a line here. The models that take it
name it in models/table.py.
"""

import importlib
from typing import Any

from app.config import Config
from app.errors import UserError
from app.pretrained.found import Found
from models.table import MODELS

FORMATS = {
    "bert": "app.pretrained.bert",
    "timm": "app.pretrained.timm",
    "keras": "app.pretrained.keras_file",
}


def find(config: Config) -> Found | None:
    """The weights that the config names, checked; None if it names none. Takes no second.

    Raises UserError if they cannot be used.
    """
    place = config.model.pretrained
    if place is None:
        return None
    name = config.model.model
    if not MODELS[name].pretrained:
        able = ", ".join(one.name for one in MODELS.values() if one.pretrained)
        raise UserError(f"model '{name}' reads no pretrained weights: {able} do")
    return _format(config).read(config, place.expanduser())


def load(config: Config, found: Found, network: Any) -> None:
    """Put what was found into the network of the config's model.

    Raises UserError for numbers that are not finite.
    """
    _format(config).load(found, network)


def _format(config: Config) -> Any:
    return importlib.import_module(FORMATS[MODELS[config.model.model].pretrained])
