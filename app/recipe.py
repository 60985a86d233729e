"""Makes a run's config from defaults, a TOML recipe and flags, in that order; and back to a recipe.

Does not load TensorFlow, so that mistakes are reported at once.
"""

import argparse
import json
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from app.config import BATCH_SIZES, Config, section_of, sections
from app.errors import UserError, suggest


def add_flags(parser: argparse.ArgumentParser, only: str | None = None) -> None:
    """One flag per key, grouped by table, with its default in the help; `only`: for one table."""
    for name, section in sections().items():
        if only not in (None, name):
            continue
        group = parser.add_argument_group(f"[{name}]", (section.__doc__ or "").partition(": ")[2])
        for key, field in section.model_fields.items():
            default = "" if field.default in (None, []) else f" [{field.default}]"
            group.add_argument(
                "--" + key.replace("_", "-"),
                dest=key,
                metavar=_metavar(field.annotation),
                default=argparse.SUPPRESS,
                help=f"{field.description}{default}",
            )


def given_keys(options: argparse.Namespace) -> dict[str, Any]:
    """The keys of a config that a command was given as flags, among its other options."""
    keys = {key for section in sections().values() for key in section.model_fields}
    return {key: value for key, value in vars(options).items() if key in keys}


def _metavar(annotation: Any) -> str:
    """`INT`, `FLOAT`, `PATH`, ... for an annotation, or its choices."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin is Annotated:
        return _metavar(arguments[0])
    names = [_metavar(argument) for argument in arguments if argument is not type(None)]
    if names and origin is not list:
        return names[0] if len(set(names)) == 1 else "VALUE"
    return "N,N,..." if names else getattr(annotation, "__name__", "value").upper()


def load(recipe: Path | None, overrides: dict[str, Any]) -> Config:
    """Defaults, overlaid by a TOML recipe, overlaid by `overrides` (key -> text or value).

    Raises a UserError that names the file or flag, the key and the valid values.
    """
    tables = _read_recipe(recipe) if recipe else {}
    for key, value in overrides.items():
        section = section_of(key)
        tables.setdefault(section, {})[key] = value
    return _validate(tables, recipe, overrides)


def overlay(saved: Config, given: Config) -> tuple[Config, dict[str, tuple[Any, Any]]]:
    """`saved` overlaid by the keys set in `given`, and what that changes: key -> (old, new).

    Raises UserError if they do not fit together.
    """
    tables = {name: getattr(saved, name).model_dump(exclude_unset=True) for name in sections()}
    told: dict[str, Any] = {}
    for name in sections():
        told |= getattr(given, name).model_dump(exclude_unset=True)
    for key, value in told.items():
        tables[section_of(key)][key] = value
    merged = _validate(tables, None, told)
    changes: dict[str, tuple[Any, Any]] = {}
    for name in sections():
        before, now = getattr(saved, name).model_dump(), getattr(merged, name).model_dump()
        changes |= {key: (before[key], now[key]) for key in now if before[key] != now[key]}
    return merged, changes


def _validate(tables: dict, recipe: Path | None, overrides: dict[str, Any]) -> Config:
    """The config in `tables`; of two batch sizes, the one in `overrides` replaces the other."""
    for given, other in (BATCH_SIZES, BATCH_SIZES[::-1]):
        if overrides.get(given) and not overrides.get(other):
            tables["training"].pop(other, None)
    try:
        return Config.model_validate(tables)
    except pydantic.ValidationError as error:
        raise UserError(_explain(error, recipe, overrides)) from None


def _read_recipe(recipe: Path) -> dict[str, dict[str, Any]]:
    if not recipe.is_file():
        folder = recipe.parent if recipe.parent.is_dir() else Path("launch/recipes")
        found = [str(path) for path in folder.glob("*.toml")]
        raise UserError(f"no recipe '{recipe}': {suggest(str(recipe), found)}")
    try:
        tables = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{recipe} is not TOML: {error}") from None
    try:
        _check_keys(tables)
    except UserError as error:
        raise UserError(f"{recipe}: {error}") from None
    return tables


def _check_keys(tables: dict[str, Any]) -> None:
    """Raise UserError for a table or key that does not exist, or a key in the wrong table."""
    for name, table in tables.items():
        if name not in sections():
            hint = f"it belongs to [{section_of(name)}]" if not isinstance(table, dict) else ""
            raise UserError(f"unknown table '{name}': {hint or suggest(name, sections())}")
        if not isinstance(table, dict):
            raise UserError(f"[{name}] must be a table")
        for key in table:
            if key not in sections()[name].model_fields:
                where = section_of(key)  # raises with the nearest key if there is no such key
                raise UserError(f"'{key}' belongs to [{where}], not to [{name}]")


def _explain(error: pydantic.ValidationError, recipe: Path | None, overrides: dict) -> str:
    """The first problem of a validation, in one line."""
    first = error.errors()[0]
    key = str(first["loc"][1]) if len(first["loc"]) > 1 else ""
    where = f"--{key.replace('_', '-')}" if key in overrides else f"{recipe or 'config'}: {key}"
    given = f", got {first['input']!r}" if key else ""
    if first["type"] == "literal_error":
        valid = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{where}: unknown value '{first['input']}': {suggest(str(first['input']), valid)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where.rstrip(': ')}: {message}{given}"


def to_toml(config: Config) -> str:
    """The config as a recipe."""
    lines = []
    for name in sections():
        lines.append(f"[{name}]")
        for key, value in getattr(config, name).model_dump(mode="json").items():
            if value is not None:
                lines.append(f"{key} = {_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)
