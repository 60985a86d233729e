"""Tables of the user's own (CSV, TSV, JSON, Parquet): the input and the labels of each row.

Knows rows and the policy for bad ones; nothing of NumPy, images or splits. How files become rows is
in table_rows.py, how cells become labels in table_labels.py.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from app.data.bad import BadExamples
from app.data.sources.classes import merges, says_missing
from app.data.sources.dialects import MissingColumnError
from app.data.sources.file_names import is_image, is_unread
from app.data.sources.table_files import DELIMITED, place, table_suffix
from app.data.sources.table_labels import (
    Cell,
    LabelColumn,
    cells_of,
    have_numbers,
    number_labels,
)
from app.data.sources.table_rows import Reading, RowError, Rows, join_texts, open_rows
from app.errors import UserError, suggest

LABEL = "label"  # the column, where none is named
SHOWN_CHARACTERS = 40  # of a column's name: a header may be a row of texts


@dataclass(frozen=True)
class Table:
    """The good rows of a file, in its order: row i is `inputs[i]`, and `names[i]` of each column of
    labels.

    `inputs` are texts or, if `kind` is "image", paths as the file gives them; `lines` are the lines
    of the file, counted from 1, on which the rows begin (of Parquet, the rows); `about`: how the
    file was read.
    """

    path: Path
    kind: Literal["text", "image"]
    inputs: list[str]
    labels: tuple[LabelColumn, ...]
    lines: list[int]
    about: str = field(default="", compare=False)

    def where(self, row: int) -> str:
        """The file and line of a row, counted from 0, for a message."""
        return place(self.path, self.lines[row])


@dataclass(slots=True)
class _Row:
    """A good row."""

    line: int
    text: str
    cells: list[Cell | None]


def read_table(
    path: Path,
    input_key: str | None,
    label_key: str | None,
    bad: BadExamples,
    reading: Reading = Reading(),  # noqa: B008 (frozen)
    numbers: Sequence[bool] | None = None,
) -> Table:
    """Read a CSV (RFC 4180), TSV (IANA text/tab-separated-values), JSON or Parquet file.

    Args:
        path: a file whose name ends with one of `SUFFIXES`, or one of them and `.gz`.
        input_key: the column with the inputs, or several with commas between, whose texts are
            joined; None is 'text', or 'image' if there is no 'text'.
        label_key: the column with the labels, or several with commas between, one label each; None
            is 'label'.
        bad: is told of every row that cannot be used; the table leaves it out.
        reading: what is known of the file.
        numbers: for each column of labels, whether they are numbers (1.0 is the class 1) or names;
            None if this file, all labels of a column together, says it.

    Raises:
        UserError: the file as a whole cannot be used, or `bad` takes no bad rows.
    """

    def choose(columns: Sequence[str]) -> tuple[str, ...]:
        return _choose_columns(path, reading, columns, input_key, label_key)

    with open_rows(path, reading, choose) as rows:
        keys = input_columns(label_key or LABEL, rows.columns)
        return _collect(path, rows, keys, bad, numbers)


def _collect(
    path: Path,
    rows: Rows,
    keys: tuple[str, ...],
    bad: BadExamples,
    numbers: Sequence[bool] | None,
) -> Table:
    """Parse the records; rows that cannot be parsed or whose labels are not classes go to `bad`, in
    the order of the file. `keys`: the last of the columns, those with labels."""
    found: list[_Row] = []
    problems: list[tuple[int, str]] = []
    bad_before = len(bad.found)
    try:
        for line, record in rows.records:
            try:
                found.append(_row(line, rows, keys, record))
            except RowError as problem:
                problems.append((line, str(problem)))
    except UserError:
        _tell(path, problems, bad)
        raise
    if numbers is None:
        numbers = [have_numbers(cells) for cells in _columns(keys, found)]
    good: list[_Row] = []
    for row in found:
        try:
            row.cells = number_labels(keys, row.cells, numbers)
            good.append(row)
        except (ValueError, RowError) as problem:
            problems.append((row.line, str(problem)))
    _tell(path, problems, bad)
    new_bad = bad.found[bad_before:]
    if not good and new_bad:
        first = new_bad[0]
        raise UserError(f"{path} has no good row; the first bad one: {first.where}: {first.reason}")
    if not good:
        raise UserError(f"{path} has no rows")
    labels = [
        LabelColumn(key, [cell.label if cell else None for cell in cells], is_number)
        for key, cells, is_number in zip(keys, _columns(keys, good), numbers, strict=True)
    ]
    for note in _merged(path, labels, _columns(keys, good)):
        bad.note(note)
    inputs = [row.text for row in good]
    kind = _kind(rows.columns[: -len(keys)], inputs[0])
    lines = [row.line for row in good]
    return Table(path, kind, inputs, tuple(labels), lines, _about(rows, labels))


def _columns(keys: Sequence[str], rows: Sequence[_Row]) -> list[list[Cell | None]]:
    return [[row.cells[place] for row in rows] for place in range(len(keys))]


def _merged(
    path: Path, labels: Sequence[LabelColumn], cells: Sequence[Sequence[Cell | None]]
) -> Iterator[str]:
    """Notes about classes that are written in more than one way."""
    for column, of_column in zip(labels, cells, strict=True):
        found: dict[str, set[str]] = {}
        for cell in of_column:
            if cell is not None:
                written = cell.label if column.numbers else cell.written
                found.setdefault(cell.label, set()).add(written)
        yield from merges(found, str(path) if len(labels) == 1 else f"{path}, '{column.key}'")


def _about(rows: Rows, labels: Sequence[LabelColumn]) -> str:
    """How the file was read, for people."""
    inputs = rows.columns[: -len(labels)]
    parts = [rows.about]
    if len(inputs) > 1:
        parts.append(f"{' and '.join(inputs)} joined by a space")
    for column in labels:
        names = dict.fromkeys(column.names)
        missing = [name for name in names if name and says_missing(name)]
        if missing and not column.numbers:
            where = "" if len(labels) == 1 else f" in column '{column.key}'"
            parts.append(f"'{missing[0]}' is a class by its name{where}")
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


def input_columns(key: str, columns: Collection[str]) -> tuple[str, ...]:
    """The columns that a key names, of inputs or labels: the one of that name, or several with
    commas between."""
    if key in columns:
        return (key,)
    names = tuple(name.strip() for name in key.split(","))
    return names if all(names) else (key,)


def _choose_columns(
    path: Path,
    reading: Reading,
    columns: Sequence[str],
    input_key: str | None,
    label_key: str | None,
) -> tuple[str, ...]:
    """The names of the input columns and the label columns, each of which is there once."""
    if input_key is None and "text" in columns and "image" in columns:
        raise UserError(
            f"{path} has a column 'text' and a column 'image': name the one to learn from with "
            "--input-key"
        )
    default = "image" if "image" in columns and "text" not in columns else "text"
    inputs = input_columns(input_key or default, columns)
    labels = input_columns(label_key or LABEL, columns)
    flags = [(name, "--input-key") for name in inputs] + [(name, "--label-key") for name in labels]
    for name, flag in flags:
        if columns.count(name) > 1:
            raise UserError(f"{path} has {columns.count(name)} columns called '{name}': rename one")
        if name not in columns:
            advice = _advice(path, reading, columns, name, flag)
            raise MissingColumnError(f"{path} has no column '{name}': {advice}")
    for name in labels:
        if name in inputs:
            raise UserError(
                f"{path}: column '{name}' cannot be both input and label: "
                "name two with --input-key and --label-key"
            )
    for names, given in (
        (inputs, f"--input-key {input_key}"),
        (labels, f"--label-key {label_key}"),
    ):
        if len(set(names)) < len(names):
            raise UserError(f"{path}: {given} names a column twice")
    return (*inputs, *labels)


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


def _row(line: int, rows: Rows, keys: tuple[str, ...], record: Any) -> _Row:
    """Raises RowError if the text or all labels are empty, or a label cannot name a class."""
    values = rows.parse(record)
    number = len(values) - len(keys)
    text = join_texts(rows.columns[:number], values[:number])
    return _Row(line, text, cells_of(keys, values[number:], rows.typed))
