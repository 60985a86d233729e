"""The rows of a table, whatever its format: the values of the columns that are asked for.

Each format gives records, each with the line on which it begins, and a function that makes values
of a record, or says what is wrong with it.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from app.data.sources.delimited import read_records
from app.data.sources.dialects import Choose, MissingColumnError, find_dialect
from app.data.sources.table_files import (
    DELIMITED,
    JSON,
    SUFFIXES,
    UTF_8,
    RowError,
    check_characters,
    open_text,
    table_suffix,
)
from app.errors import UserError

JOINER = " "  # between the texts of several columns


@dataclass(frozen=True)
class Reading:
    """What the user says of a file: its encoding (a codec's name), whether it has a header, and
    what separates its columns (None: found)."""

    encoding: str = UTF_8
    header: bool = True
    separator: str | None = None


@dataclass(frozen=True)
class Rows:
    """`columns`: the names that `parse` gives the values of; `records`: each with its line, counted
    from 1; `parse` raises RowError; `typed`: values have types, else all are texts; `about`: how
    the file is read, for people."""

    columns: tuple[str, ...]
    records: Iterator[tuple[int, Any]]
    parse: Callable[[Any], tuple[Any, ...]]
    typed: bool
    about: str


@contextlib.contextmanager
def open_rows(path: Path, reading: Reading, choose: Choose) -> Iterator[Rows]:
    """The rows of a table.

    Args:
        path: a file whose name ends with one of `SUFFIXES`, or one of them and `.gz`.
        reading: what is known of it.
        choose: the columns that are needed, of all; raises MissingColumnError if one is not there.

    Raises:
        UserError: the file as a whole cannot be used; also while its records are read.
    """
    suffix = table_suffix(path)
    if suffix is None:
        raise UserError(f"{path}: expected a file that ends with {', '.join(SUFFIXES)}")
    if suffix not in DELIMITED and (reading.separator or not reading.header):
        key = "separator" if reading.separator else "header"
        raise UserError(f"{key} is for tables such as .csv, and {path} names its columns by itself")
    if suffix not in (*DELIMITED, *JSON):
        from app.data.sources.parquet import open_parquet  # takes a fifth of a second to import

        with open_parquet(path, choose) as rows:
            yield rows
        return
    # csv needs line breaks as they are; JSON Lines has no other line break than \n.
    newline, read = ("", _delimited) if suffix in DELIMITED else ("\n", _json)
    with open_text(path, reading.encoding, newline) as file:
        yield read(path, file, reading, choose)


def _delimited(path: Path, file: TextIO, reading: Reading, choose: Choose) -> Rows:
    dialect = find_dialect(path, file, reading.separator, reading.header, reading.encoding, choose)
    header, columns = dialect.header, choose(dialect.header)
    indices = [header.index(name) for name in columns]
    width = len(header)
    hint = (
        "texts cannot hold tabs or line breaks"
        if dialect.quotes == "none"
        else "quote texts that hold commas or line breaks"
        if dialect.separator == ","
        else "quote texts that hold separators or line breaks"
    )
    expected = "the header has" if reading.header else "most rows have"

    def parse(fields: list[str]) -> tuple[str, ...]:
        if len(fields) != width:
            raise RowError(f"{len(fields)} fields, but {expected} {width}: {hint}")
        check_characters("".join(fields), reading.encoding)
        return tuple([fields[index] for index in indices])

    about = f"{dialect}, encoding {reading.encoding}"
    return Rows(columns, read_records(path, file, dialect), parse, False, about)


def _json(path: Path, file: TextIO, reading: Reading, choose: Choose) -> Rows:
    """JSON Lines, or one JSON array of objects."""
    # The columns are the keys of the first object that has all that is needed.
    columns: tuple[str, ...] = ()
    missing = None
    for _, text in json_records(path, file):
        try:
            columns = choose(tuple(json_object(text, reading.encoding)))
            break
        except RowError:
            continue
        except MissingColumnError as error:
            # Or else of the first that has any: the message about a missing column shows them.
            missing = missing or (error if json_object(text) else None)
    else:
        if missing:
            raise missing

    def parse(text: str) -> tuple[Any, ...]:
        found = json_object(text, reading.encoding)
        for key in columns:
            if key not in found:
                raise RowError(f"no key '{key}'; it has {', '.join(map(repr, found)) or 'none'}")
            if _comes_twice(key, text):
                raise RowError(f"the key '{key}' comes twice")
        if not columns:
            raise RowError("an object without keys")
        values = tuple(found[key] for key in columns)
        if "\\u" in text:  # an escape can stand for NUL or for half a character
            check_values(values)
        return values

    what = "a JSON array" if _array(path, file) is not None else "JSON Lines"
    about = f"{what}, encoding {reading.encoding}"
    return Rows(columns, json_records(path, file), parse, True, about)


def json_records(path: Path, file: TextIO) -> Iterator[tuple[int, str]]:
    """(line, text) of each element of a file of JSON Lines, blank lines left out, or of a JSON
    array.

    Raises UserError for a `.json` file that begins like an array but is not one.
    """
    places = _array(path, file)
    file.seek(0)
    if places is not None:
        content = file.read()
        return ((line, content[start:end]) for line, start, end in places)
    lines = ((number, line.strip("\ufeff \t\r\n")) for number, line in enumerate(file, start=1))
    return ((number, line) for number, line in lines if line)


def _array(path: Path, file: TextIO) -> list[tuple[int, int, int]] | None:
    """(line, start, end) of each element if the whole file is one JSON array; None if not."""
    file.seek(0)
    first = next((text for line in file if (text := line.strip("\ufeff \t\r\n"))), "")
    if not first.startswith("["):
        return None
    file.seek(0)
    content = file.read()
    try:
        return list(_elements(content))
    except (ValueError, RecursionError) as error:
        if table_suffix(path) != ".json":
            return None
        reason = "nested too deeply"
        line = 1
        if isinstance(error, json.JSONDecodeError):
            reason, line = f"{error.msg} at column {error.colno}", error.lineno
        raise UserError(f"{path}, line {line}: not a valid JSON array: {reason}") from None


def _elements(content: str) -> Iterator[tuple[int, int, int]]:
    """Raises json.JSONDecodeError where the array ends to be one."""
    decoder, line, counted = json.JSONDecoder(), 1, 0

    def skip(at: int) -> int:
        while at < len(content) and content[at] in " \t\r\n":
            at += 1
        return at

    at = skip(skip(0) + content.startswith("\ufeff"))
    at = skip(at + 1)
    while content[at : at + 1] != "]":
        line, counted = line + content.count("\n", counted, at), at
        _, end = decoder.raw_decode(content, at)
        yield line, at, end
        at = skip(end)
        if content[at : at + 1] == ",":
            at = skip(at + 1)
            if content[at : at + 1] == "]":
                raise json.JSONDecodeError("Expecting value after ','", content, at)
        elif content[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' or ']'", content, at)
    if skip(at + 1) < len(content):
        raise json.JSONDecodeError("Extra data", content, at + 1)


class WrittenNumber(str):
    """A number of JSON that is not whole, as it is written."""


# Made once: json.loads makes a decoder for each text if it has options.
read_json = json.JSONDecoder(parse_float=WrittenNumber).decode


def _comes_twice(key: str, text: str) -> bool:
    """Whether an object has a key more than once; Python keeps the last."""
    if "\\" not in text and text.count(f'"{key}"') < 2:
        return False
    keys: list[str] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        keys[:] = [one for one, _ in pairs]  # at the end, those of the outermost object

    json.loads(text, object_pairs_hook=keep)
    return keys.count(key) > 1


def json_object(text: str, encoding: str = UTF_8) -> dict[str, Any]:
    """The object that a JSON text is; RowError for anything else."""
    check_characters(text, encoding)
    try:
        found = read_json(text)
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):
        raise RowError(
            "not readable JSON: a number is too long, or it is nested too deeply"
        ) from None
    if not isinstance(found, dict):
        raise RowError(
            f'expected an object such as {{"text": ..., "label": ...}}; got {type_of(found)}'
        )
    return found


def type_of(value: object) -> str:
    """What a value is, for a message."""
    if isinstance(value, WrittenNumber):
        return "float"
    return "null" if value is None else type(value).__name__


def check_values(values: Sequence[Any]) -> None:
    """Raise RowError for a text with invalid characters."""
    for value in values:
        if isinstance(value, str):
            check_characters(value)


def join_texts(names: Sequence[str], values: Sequence[Any]) -> str:
    """The text that the values of the input columns are: one, or several joined by `JOINER`, of
    which some may be empty or null.

    Raises RowError if all are empty, or one is not a text.
    """
    if len(values) == 1 and type(values[0]) is str and values[0].strip():
        return values[0]
    texts = ["" if value is None and len(values) > 1 else value for value in values]
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str) or isinstance(text, WrittenNumber):
            raise RowError(f"'{name}' must be a string; got {type_of(text)}")
    text = texts[0] if len(texts) == 1 else JOINER.join(filter(str.strip, texts))
    if not text or text.isspace():
        names = ", ".join(f"'{name}'" for name in names)
        raise RowError(
            f"column {names} is empty" if len(texts) == 1 else f"columns {names} are empty"
        )
    return text
