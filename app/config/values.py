"""The types of the values of a config, and how what a user gives becomes one."""

import codecs
import math
from typing import Annotated, Any

import pydantic
from PIL import ImageColor
from pydantic import Field

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
# Flags are text: what reads as a number is a share.
SplitOrShare = Annotated[str | float, pydantic.BeforeValidator(lambda given: _number_or(given))]
# Flags are text: numbers with commas between.
Numbers = Annotated[list[float], pydantic.BeforeValidator(lambda given: _parts_of(given))]
ShareOrShares = Annotated[
    Share | list[Share],
    pydantic.BeforeValidator(lambda given: _parts_of(given) if "," in str(given) else given),
]
Color = Annotated[str, pydantic.AfterValidator(lambda given: _known_color(given))]
Separator = Annotated[str, pydantic.AfterValidator(lambda given: _one_character(given))]
Encoding = Annotated[str, pydantic.AfterValidator(lambda given: _codec_name(given))]


def _number_or(given: Any) -> Any:
    try:
        number = float(given)
    except (TypeError, ValueError):
        return given
    return number if math.isfinite(number) else given


def _parts_of(given: Any) -> Any:
    return [part for part in given.split(",") if part] if isinstance(given, str) else given


def _known_color(given: str) -> str:
    rgb_of(given)
    return given


def rgb_of(color: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a CSS colour; ValueError for anything else."""
    try:
        red, green, blue, *alpha = ImageColor.getrgb(color)
    except ValueError:
        alpha = [0]
    if alpha:
        raise ValueError("expected the name of a colour, such as white, or '#rrggbb'")
    return red, green, blue


def _one_character(given: str) -> str:
    found = "\t" if given in ("tab", "\\t") else given
    if len(found) != 1 or found in '"\r\n\\\0':
        raise ValueError("expected one character, or 'tab'")
    return found


def _codec_name(given: str) -> str:
    try:
        "".encode(given)  # LookupError also for codecs that do not encode text
        name = codecs.lookup(given).name
    except (LookupError, ValueError):
        raise ValueError("unknown encoding: give one such as cp1252, utf-16 or gb18030") from None
    return "utf-8" if name == "utf-8-sig" else name
