"""Tables of the user's own (CSV, TSV, JSON, Parquet): the input and the label of each row.

Knows rows and the policy for bad ones; nothing of NumPy, images or splits. How files become rows is
in table_rows.py.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from app.data.bad import BadExamples
from app.data.sources.classes import (
    are_numbers,
    clean_class_name,
    merges,
    number_class,
    says_missing,
)
from app.data.sources.dialects import MissingColumnError
from app.data.sources.file_names import is_image, is_unread
from app.data.sources.table_files import DELIMITED, place, table_suffix
from app.data.sources.table_rows import (
    Reading,
    RowError,
    Rows,
    WrittenNumber,
    join_texts,
    open_rows,
    type_of,
)
from app.errors import UserError, suggest

SHOWN_CHARACTERS = 40  # of a column's name: a header may be a row of texts


@dataclass(frozen=True)
class Table:
    """The good rows of a file, in its order: row i is `inputs[i]`, `labels[i]`.

    `inputs` are texts or, if `kind` is "image", paths as the file gives them; `labels` are class
    names, cleaned; `lines` are the lines of the file, counted from 1, on which the rows begin (of
    Parquet, the rows); `numbers`: whether the labels are numbers, not names; `about`: how the file
    was read.
    """

    path: Path
    kind: Literal["text", "image"]
    inputs: list[str]
    labels: list[str]
    lines: list[int]
    numbers: bool = field(default=False, compare=False)
    about: str = field(default="", compare=False)

    def where(self, row: int) -> str:
        """The file and line of a row, counted from 0, for a message."""
        return place(self.path, self.lines[row])


@dataclass(slots=True)
class _Row:
    """A good row; `label`: cleaned, `written`: as the file has it; `number`: whether that has the
    type of a number (None: it has no type)."""

    line: int
    text: str
    label: str
    written: str
    number: bool | None


def read_table(
    path: Path,
    input_key: str | None,
    label_key: str | None,
    bad: BadExamples,
    reading: Reading = Reading(),  # noqa: B008 (frozen)
    numbers: bool | None = None,
) -> Table:
    """Read a CSV (RFC 4180), TSV (IANA text/tab-separated-values), JSON or Parquet file.

    Args:
        path: a file whose name ends with one of `SUFFIXES`, or one of them and `.gz`.
        input_key: the column with the inputs, or several with commas between, whose texts are
            joined; None is 'text', or 'image' if there is no 'text'.
        label_key: the column with the labels; None is 'label'.
        bad: is told of every row that cannot be used; the table leaves it out.
        reading: what is known of the file.
        numbers: whether labels are numbers (1.0 is the class 1) or names; None if this file, all of
            its labels together, says it.

    Raises:
        UserError: the file as a whole cannot be used, or `bad` takes no bad rows.
    """

    def choose(columns: Sequence[str]) -> tuple[str, ...]:
        return _choose_columns(path, reading, columns, input_key, label_key)

    with open_rows(path, reading, choose) as rows:
        return _collect(path, rows, bad, numbers)


def _collect(path: Path, rows: Rows, bad: BadExamples, numbers: bool | None) -> Table:
    """Parse the records; rows that cannot be parsed or whose label is not a class go to `bad`, in
    the order of the file."""
    found: list[_Row] = []
    problems: list[tuple[int, str]] = []
    bad_before = len(bad.found)
    try:
        for line, record in rows.records:
            try:
                found.append(_row(line, rows, record))
            except RowError as problem:
                problems.append((line, str(problem)))
    except UserError:
        _tell(path, problems, bad)
        raise
    if numbers is None:
        numbers = _has_numbers(found)
    good: list[_Row] = []
    for row in found:
        try:
            if numbers and row.number is not False:
                row.label = number_class(row.label)
            good.append(row)
        except ValueError as problem:
            problems.append((row.line, str(problem)))
    _tell(path, problems, bad)
    new_bad = bad.found[bad_before:]
    if not good and new_bad:
        first = new_bad[0]
        raise UserError(f"{path} has no good row; the first bad one: {first.where}: {first.reason}")
    if not good:
        raise UserError(f"{path} has no rows")
    spellings: dict[str, set[str]] = {}
    for row in good:
        spellings.setdefault(row.label, set()).add(row.label if numbers else row.written)
    for note in merges(spellings, str(path)):
        bad.note(note)
    inputs = [row.text for row in good]
    return Table(
        path,
        _kind(rows.columns[:-1], inputs[0]),
        inputs,
        [row.label for row in good],
        [row.line for row in good],
        numbers,
        _about(rows, spellings, numbers),
    )


def _has_numbers(rows: list[_Row]) -> bool:
    if rows and rows[0].number is None:
        return are_numbers(row.label for row in rows)
    return bool(rows) and all(row.number for row in rows)


def _about(rows: Rows, labels: Iterable[str], numbers: bool) -> str:
    """How the file was read, for people."""
    *inputs, _ = rows.columns
    parts = [rows.about]
    if len(inputs) > 1:
        parts.append(f"{' and '.join(inputs)} joined by a space")
    missing = [] if numbers else [label for label in labels if says_missing(label)]
    if missing:
        parts.append(f"'{missing[0]}' is a class by its name")
    return ", ".join(parts)


def _tell(path: Path, problems: list[tuple[int, str]], bad: BadExamples) -> None:
    for line, problem in sorted(problems):
        bad.add(place(path, line), problem)


def _kind(columns: Sequence[str], first: str) -> Literal["text", "image"]:
    """By the column's name if that says it, otherwise by the first row; several are texts."""
    if len(columns) > 1:
        return "text"
    if columns[0] in ("image", "text"):
        return "image" if columns[0] == "image" else "text"
    one_line = "\n" not in first and "\r" not in first
    return "image" if one_line and (is_image(first) or is_unread(first)) else "text"


def input_columns(input_key: str, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that a key names: the one of that name, or several with commas between."""
    if input_key in columns:
        return (input_key,)
    names = tuple(name.strip() for name in input_key.split(","))
    return names if all(names) else (input_key,)


def _choose_columns(
    path: Path,
    reading: Reading,
    columns: Sequence[str],
    input_key: str | None,
    label_key: str | None,
) -> tuple[str, ...]:
    """The names of the input columns and the label column, each of which is there once."""
    if input_key is None and "text" in columns and "image" in columns:
        raise UserError(
            f"{path} has a column 'text' and a column 'image': name the one to learn from with "
            "--input-key"
        )
    default = "image" if "image" in columns and "text" not in columns else "text"
    inputs = input_columns(input_key or default, columns)
    label = label_key or "label"
    for name, flag in (*((name, "--input-key") for name in inputs), (label, "--label-key")):
        if columns.count(name) > 1:
            raise UserError(f"{path} has {columns.count(name)} columns called '{name}': rename one")
        if name not in columns:
            advice = _advice(path, reading, columns, name, flag)
            raise MissingColumnError(f"{path} has no column '{name}': {advice}")
    if label in inputs:
        raise UserError(
            f"{path}: column '{label}' cannot be both input and label: "
            "name two with --input-key and --label-key"
        )
    if len(set(inputs)) < len(inputs):
        raise UserError(f"{path}: --input-key {input_key} names a column twice")
    return (*inputs, label)


def _advice(path: Path, reading: Reading, columns: Sequence[str], name: str, flag: str) -> str:
    """What to do about a column that is not there."""
    shown = [column[:SHOWN_CHARACTERS] for column in columns]
    if not reading.header:
        return f"without a header they are called 1 to {len(shown)}. Name the column with {flag}"
    if table_suffix(path) not in DELIMITED:
        return f"{suggest(name, shown)}. Name the column with {flag}"
    if len(shown) == 1 and reading.separator:
        return f"its first line, '{shown[0]}', is one column: leave --separator out"
    if len(shown) == 1:
        return (
            f"its first line, '{shown[0]}', has no comma, semicolon, tab or | between columns: "
            "name what separates them with --separator"
        )
    return (
        f"{suggest(name, shown)}. Name the column with {flag}, or give --header false if the first "
        "line is a row"
    )


def _row(line: int, rows: Rows, record: Any) -> _Row:
    """Raises RowError if the text or the label is empty, or the label cannot name a class."""
    *texts, value = rows.parse(record)
    *inputs, label_key = rows.columns
    text = join_texts(inputs, texts)
    written, number = _label(label_key, value) if rows.typed else (value, None)
    label = clean_class_name(written)
    if not label:
        raise RowError(f"column '{label_key}' is empty")
    if "\n" in label or "\r" in label:
        raise RowError(f"label {label[:40]!r} has a line break: the name of a class is one line")
    return _Row(line, text, label, written, number)


def _label(key: str, value: Any) -> tuple[str, bool]:
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
