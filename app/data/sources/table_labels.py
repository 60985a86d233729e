"""The labels of a table's rows: what the cells of one or several columns say, as class names.

With one column every row needs its label. With several a row may lack some, but not all: its cell
is empty or null, or, in a column of numbers, what programs write for a missing value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.data.sources.classes import are_numbers, clean_class_name, number_class, says_missing
from app.data.sources.table_rows import RowError, WrittenNumber, type_of


@dataclass(frozen=True)
class LabelColumn:
    """The labels of rows in the column called `key`: class names, cleaned; None where a row lacks
    it. `numbers`: whether the labels are numbers, not names."""

    key: str
    names: list[str | None]
    numbers: bool = field(default=False, compare=False)


@dataclass(slots=True)
class Cell:
    """`label`: cleaned, `written`: as the file has it; `number`: whether that has the type of a
    number (None: it has no type)."""

    label: str
    written: str
    number: bool | None


def cells_of(keys: Sequence[str], values: Sequence[Any], typed: bool) -> list[Cell | None]:
    """The cells of one row, None where one of several is empty.

    Raises RowError if a value cannot name a class, or all are empty.
    """
    several = len(keys) > 1
    cells = [_cell(key, one, typed, several) for key, one in zip(keys, values, strict=True)]
    _check_any(keys, cells)
    return cells


def _check_any(keys: Sequence[str], cells: Sequence[Cell | None]) -> None:
    if any(cells):
        return
    names = ", ".join(f"'{key}'" for key in keys)
    if len(keys) == 1:
        raise RowError(f"column {names} is empty")
    raise RowError(f"columns {names} are empty: every example needs a label")


def _cell(key: str, value: Any, typed: bool, may_lack: bool) -> Cell | None:
    if may_lack and (value is None or (isinstance(value, float) and math.isnan(value))):
        return None
    written, number = _written(key, value) if typed else (value, None)
    label = clean_class_name(written)
    if not label:
        return None
    if "\n" in label or "\r" in label:
        raise RowError(f"label {label[:40]!r} has a line break: the name of a class is one line")
    return Cell(label, written, number)


def _written(key: str, value: Any) -> tuple[str, bool]:
    """(the label as it is written, whether it is a number) of a value that has a type."""
    if isinstance(value, float):
        if not math.isfinite(value):
            what = "marks a missing value" if math.isnan(value) else "is not a class"
            raise RowError(f"label {value} {what}: every example needs a label")
        return repr(value), True
    if isinstance(value, bool):
        return str(value).lower(), False
    if isinstance(value, int | WrittenNumber):
        return str(value), True
    if not isinstance(value, str):
        raise RowError(
            f"'{key}' must be a string, a whole number or a boolean; got {type_of(value)}"
        )
    return value, False


def have_numbers(column: Sequence[Cell | None]) -> bool:
    """Whether the labels of a column, all together, are numbers."""
    known = [cell for cell in column if cell is not None]
    if known and known[0].number is None:
        return are_numbers(cell.label for cell in known)
    return bool(known) and all(cell.number for cell in known)


def number_labels(
    keys: Sequence[str], cells: list[Cell | None], numbers: Sequence[bool]
) -> list[Cell | None]:
    """The cells of one row; those of columns of numbers are called as these classes are.

    Raises ValueError for a label that is not a class, RowError if no label is left.
    """
    for place, (cell, is_number) in enumerate(zip(cells, numbers, strict=True)):
        if cell is None or not is_number or cell.number is False:
            continue
        if len(keys) > 1 and says_missing(cell.label):
            cells[place] = None
        else:
            cell.label = number_class(cell.label)
    _check_any(keys, cells)
    return cells
