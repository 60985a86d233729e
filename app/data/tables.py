"""CSV, TSV and JSON Lines files of the user's own: one input column, one label column.

Knows files, text and the policy for bad rows; nothing of NumPy, images or splits. Each format
gives records and a function that makes an (input, label) of a record; the rest is common.
"""

import codecs
import csv
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from app.data.bad import BadExamples
from app.data.classes import clean_class_name, label_problem, merges, reads_as_float
from app.data.file_names import is_image, is_unread
from app.errors import UserError, suggest

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")

_JSON_SUFFIXES = (".jsonl", ".ndjson")
# UTF-32 first: in little-endian order its mark begins with that of UTF-16.
_OTHER_MARKS = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}

# The first line of a record, 1-based, and its fields (CSV, TSV) or its text (JSON Lines).
Records = Iterator[tuple[int, Any]]
Parse = Callable[[Any], tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """The good rows of a file, in its order: row i is `inputs[i]`, `labels[i]`.

    `inputs` are texts or, if `kind` is "image", paths as the file gives them; `labels` are class
    names, cleaned; `lines` are the lines of the file, counted from 1, on which the rows begin.
    """

    path: Path
    kind: Literal["text", "image"]
    inputs: list[str]
    labels: list[str]
    lines: list[int]

    def where(self, row: int) -> str:
        """The file and line of a row, counted from 0, for a message."""
        return f"{self.path}, line {self.lines[row]}"


class RowError(Exception):
    """What is wrong with one row."""


def read_table(path: Path, input_key: str | None, label_key: str | None, bad: BadExamples) -> Table:
    """Read a CSV (RFC 4180), TSV (IANA text/tab-separated-values) or JSON Lines file in UTF-8.

    Args:
        path: a file whose name ends with one of `SUFFIXES`.
        input_key: the column with the inputs; None is 'text', or 'image' if there is no 'text'.
        label_key: the column with the labels; None is 'label'.
        bad: is told of every row that cannot be used; the table leaves it out.

    Raises:
        UserError: the file as a whole cannot be used, or `bad` takes no bad rows.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a file that ends with {', '.join(SUFFIXES)}")
    try:
        check_file(path)
        # csv needs line breaks as they are; JSON Lines has no other line break than \n.
        newline, read = ("\n", _json_lines) if suffix in _JSON_SUFFIXES else ("", _delimited)
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
            column, records, parse = read(path, file, input_key, label_key)
            return _collect(path, column, records, parse, bad)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def check_file(path: Path) -> None:
    """Raise UserError unless this is a file that has content and no mark of UTF-16 or UTF-32."""
    if not path.is_file():  # a pipe, for one, could block for ever
        if path.exists():
            what = "it is a folder" if path.is_dir() else "it is not a file"
            raise UserError(f"{path} cannot be read: {what}")
        raise UserError(f"no file {path}")
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise UserError(f"{path} is empty")
    for encoding, marks in _OTHER_MARKS.items():
        if start.startswith(marks):
            raise UserError(
                f"{path} is not UTF-8 text but {encoding}: convert it to UTF-8, for example "
                f"with: iconv -f {encoding} -t UTF-8 {path.name} > utf8{path.suffix}"
            )


def _collect(path: Path, column: str, records: Records, parse: Parse, bad: BadExamples) -> Table:
    """Parse the records; what cannot be parsed goes to `bad`."""
    inputs: list[str] = []
    labels: list[str] = []
    lines: list[int] = []
    spellings: dict[str, set[str]] = {}
    bad_before = len(bad.found)
    for line, record in without_last_blanks(records):
        try:
            value, label = parse(record)
        except RowError as problem:
            bad.add(f"{path}, line {line}", str(problem))
            continue
        inputs.append(value)
        labels.append(clean_class_name(label))
        spellings.setdefault(labels[-1], set()).add(label)
        lines.append(line)
    new_bad = bad.found[bad_before:]
    if not inputs and new_bad:
        first = new_bad[0]
        raise UserError(f"{path} has no good row; the first bad one: {first.where}: {first.reason}")
    if not inputs:
        raise UserError(f"{path} has no rows")
    for note in merges(spellings, str(path)):
        bad.note(note)
    return Table(path, _kind(column, inputs[0]), inputs, labels, lines)


def without_last_blanks(records: Records) -> Records:
    """Drop the blank records at the end; those before another record stay, as bad rows."""
    blanks: list[tuple[int, Any]] = []
    for line, record in records:
        if record:
            yield from blanks
            blanks.clear()
            yield line, record
        else:
            blanks.append((line, record))


def _kind(column: str, first: str) -> Literal["text", "image"]:
    """By the column's name if that says it, otherwise by the first row."""
    if column in ("image", "text"):
        return "image" if column == "image" else "text"
    one_line = "\n" not in first and "\r" not in first
    return "image" if one_line and (is_image(first) or is_unread(first)) else "text"


def _choose_columns(
    path: Path, columns: Sequence[str], input_key: str | None, label_key: str | None
) -> tuple[str, str]:
    """The names of the input column and the label column, both of which are there once."""
    if input_key is None and "text" in columns and "image" in columns:
        raise UserError(
            f"{path} has a column 'text' and a column 'image': name the one to learn from with "
            "--input-key"
        )
    default = "image" if "image" in columns and "text" not in columns else "text"
    names = (input_key or default, label_key or "label")
    for name, flag in zip(names, ("--input-key", "--label-key"), strict=True):
        if columns.count(name) > 1:
            raise UserError(f"{path} has {columns.count(name)} columns called '{name}': rename one")
        if name not in columns:
            raise UserError(
                f"{path} has no column '{name}': {suggest(name, columns)}. "
                f"Name the column with {flag}"
            )
    if names[0] == names[1]:
        raise UserError(
            f"{path}: column '{names[0]}' cannot be both input and label: "
            "name two with --input-key and --label-key"
        )
    return names


def _delimited(
    path: Path, file: TextIO, input_key: str | None, label_key: str | None
) -> tuple[str, Records, Parse]:
    """The input column's name, the records and their parser, for CSV and TSV."""
    csv.field_size_limit(sys.maxsize)  # 131072 characters otherwise, for the whole process
    if path.suffix.lower() == ".tsv":
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        hint = "texts cannot hold tabs or line breaks"
    else:
        reader = csv.reader(file, strict=True)
        hint = "quote texts that hold commas or line breaks"
    records = delimited_records(path, reader)
    header: list[str] = next(records, (1, []))[1]
    if not header:
        raise UserError(f"{path} is empty, or its first line: expected a header with column names")
    try:
        check_characters("".join(header))
    except RowError as problem:
        raise UserError(f"{path}, line 1 (the header): {problem}") from None
    names = _choose_columns(path, header, input_key, label_key)
    input_index, label_index = (header.index(name) for name in names)

    def parse(fields: list[str]) -> tuple[str, str]:
        if not fields:
            raise RowError("empty line")
        if len(fields) != len(header):
            raise RowError(f"{len(fields)} fields, but the header has {len(header)}: {hint}")
        check_characters("".join(fields))
        value, label = fields[input_index], fields[label_index]
        name = clean_class_name(label)
        _check_row(*names, value, name, reads_as_float(name))
        return value, label

    return names[0], records, parse


def delimited_records(path: Path, reader: Any) -> Records:
    """(line where it begins, fields) of each row; UserError for broken quoting."""
    line = 1
    try:
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1  # a quoted field may span lines
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: not valid CSV: {error}. Check the quotes of the row that begins "
            'here: a quoted field ends with a quote, and a quote within it is written ""'
        ) from None


def _json_lines(
    path: Path, file: TextIO, input_key: str | None, label_key: str | None
) -> tuple[str, Records, Parse]:
    """The input column's name, the records and their parser, for JSON Lines."""
    inputs = ("text", "image") if input_key is None else (input_key,)
    columns: tuple[str, ...] = ()
    # The columns are the keys of the first object that has all that is needed, or else of the
    # first that has any: the message about a missing column shows them.
    for _, line in _json_records(file):
        try:
            found = _json_object(line)
        except RowError:
            continue
        columns = columns or tuple(found)
        if (label_key or "label") in found and any(key in found for key in inputs):
            columns = tuple(found)
            break
    file.seek(0)
    names = (inputs[0], label_key or "label")
    if columns:  # if there is none, every row is bad and says why
        names = _choose_columns(path, columns, input_key, label_key)
    return names[0], _json_records(file), functools.partial(_parse_json, *names)


def _json_records(file: TextIO) -> Records:
    return ((number, line.strip(" \t\r\n")) for number, line in enumerate(file, start=1))


def _json_object(line: str) -> dict[str, Any]:
    if not line:
        raise RowError("empty line")
    check_characters(line)
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):
        raise RowError("not readable JSON: a number too long, or nested too deeply") from None
    if not isinstance(found, dict):
        raise RowError(
            f'expected an object such as {{"text": ..., "label": ...}}; got {json_type(found)}'
        )
    return found


def _parse_json(input_key: str, label_key: str, line: str) -> tuple[str, str]:
    found = _json_object(line)
    for key in (input_key, label_key):
        if key not in found:
            raise RowError(f"no key '{key}'; it has {', '.join(map(repr, found)) or 'none'}")
    text, label = found[input_key], found[label_key]
    if not isinstance(text, str):
        raise RowError(f"'{input_key}' must be a string; got {json_type(text)}")
    is_float = isinstance(label, float)
    if isinstance(label, bool):
        label = "true" if label else "false"
    elif isinstance(label, int | float):
        label = str(label)
    elif not isinstance(label, str):
        raise RowError(
            f"'{label_key}' must be a string, a whole number or a boolean; got {json_type(label)}"
        )
    check_characters(text + label)  # once more: an escape can stand for half a character
    _check_row(input_key, label_key, text, clean_class_name(label), is_float)
    return text, label


def json_type(value: object) -> str:
    """What a JSON value is, for a message."""
    return "null" if value is None else type(value).__name__


def check_characters(text: str) -> None:
    """Raise RowError for a NUL character or for bytes that are not UTF-8."""
    if "\0" in text:
        raise RowError("holds a NUL character, as binary data or UTF-16 does: expected UTF-8 text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        # "surrogateescape" reads byte 0xNN as U+DCNN; other surrogates are escapes in JSON.
        if 0xDC80 <= code <= 0xDCFF:
            what = f"byte 0x{code - 0xDC00:02x}): convert the file to UTF-8"
        else:
            what = f"\\u{code:04x} is half a character)"
        raise RowError(f"not UTF-8 text ({what}") from None


def _check_row(input_name: str, label_name: str, text: str, label: str, is_float: bool) -> None:
    """Raise RowError if the text or the label is empty, or the label cannot be a class name."""
    for name, value in ((input_name, text), (label_name, label)):
        if not value or value.isspace():
            raise RowError(f"column '{name}' is empty")
    problem = label_problem(label, is_float)
    if problem:
        raise RowError(problem)
