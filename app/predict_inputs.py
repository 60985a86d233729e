"""What `predict` is given, as a stream of items: files, folders, tables, JSON Lines."""

import csv
import functools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from app.data.file_names import (
    IMAGE_SUFFIXES,
    NOT_READ,
    counted,
    is_hidden,
    is_image,
    is_unread,
    suffix_of,
)
from app.data.tables import (
    SUFFIXES,
    RowError,
    check_characters,
    check_file,
    delimited_records,
    json_type,
    without_last_blanks,
)
from app.errors import UserError, suggest
from app.saved_run import SavedRun

TEXT_SUFFIXES = (".txt", *SUFFIXES)


class Item(NamedTuple):
    """One input: a text, or the path of an image; or what was given and why it is neither."""

    given: str
    error: str | None = None


def read_items(run: SavedRun, inputs: Iterable[str]) -> Iterator[Item]:
    """Every input in order; a file that cannot be read is one input with an error."""
    key = run.config.data.input_key
    keys = ([key] if key else []) + [run.kind]
    for given in inputs:
        try:
            if given == "-":
                yield from _standard_input(keys)
            elif run.kind == "text":
                yield from _text_file(Path(given), keys)
            elif os.path.isdir(given):
                yield from _images_of(given)
            else:
                yield Item(given)
        except UserError as error:
            yield Item(given, str(error))
        except OSError as error:
            yield Item(given, f"cannot be read: {error.strerror or error}")


def _images_of(folder: str) -> Iterator[Item]:
    """All images in a folder, or an error if it has none; a line on standard error says what else
    it holds."""
    others: Counter[str] = Counter()
    images = _images_below(folder, (), others)
    first = next(images, None)
    looked_for = " ".join(IMAGE_SUFFIXES)
    yield first or Item(folder, f"no image in this folder: looked for {looked_for}")
    yield from images
    if others:
        print(f"{folder}: no images, passed over: {counted(others)}", file=sys.stderr)


def _images_below(folder: str, above: tuple[str, ...], others: Counter[str]) -> Iterator[Item]:
    """Images by their names, ordered by path, those of a format that is not read with an error;
    what else there is, is counted in `others`."""
    real = os.path.realpath(folder)
    if real in above:
        yield Item(folder, "symbolic links lead in a circle: remove one")
        return
    try:
        with os.scandir(folder) as entries:
            # With the slash that their paths have, folders come where sorted paths have them.
            names = sorted(entry.name + "/" * os.path.isdir(entry.path) for entry in entries)
    except OSError as error:
        yield Item(folder, f"cannot be read: {error.strerror or error}")
        return
    for name in names:
        path = os.path.join(folder, name.rstrip("/"))
        if is_hidden(name.rstrip("/")):
            others["._*" if name.startswith("._") else name] += 1
        elif name.endswith("/"):
            yield from _images_below(path, (*above, real), others)
        elif is_image(name):
            yield Item(path)
        elif is_unread(name):
            yield Item(path, f"{suffix_of(name)}, {NOT_READ}")
        else:
            others[suffix_of(name)] += 1


def _standard_input(keys: Sequence[str]) -> Iterator[Item]:
    with open(
        sys.stdin.fileno(),
        encoding="utf-8-sig",
        errors="surrogateescape",
        newline="\n",
        closefd=False,
    ) as file:
        yield from _rows("standard input", _lines(file), functools.partial(_parse_json, keys))


def _text_file(path: Path, keys: Sequence[str]) -> Iterator[Item]:
    """The texts of a file: one per line, JSON object or row."""
    check_file(path)
    suffix = path.suffix.lower()
    if suffix not in TEXT_SUFFIXES:
        raise UserError(f"{path}: expected a file that ends with {', '.join(TEXT_SUFFIXES)}")
    newline = "" if suffix in (".csv", ".tsv") else "\n"
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
        if suffix in (".csv", ".tsv"):
            yield from _delimited(path, file, keys)
        else:
            parse = functools.partial(_parse_json, keys) if suffix != ".txt" else str
            yield from _rows(str(path), _lines(file), parse)


def _delimited(path: Path, file: TextIO, keys: Sequence[str]) -> Iterator[Item]:
    """The texts in a column of a CSV or TSV file."""
    csv.field_size_limit(sys.maxsize)  # 131072 characters otherwise, for the whole process
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    options = tabs if path.suffix.lower() == ".tsv" else {}
    records = delimited_records(path, csv.reader(file, strict=True, **options))
    header: list[str] = next(records, (1, []))[1]
    column = next((header.index(key) for key in keys if key in header), None)
    if column is None:
        raise UserError(f"{path} has no column '{keys[0]}': {suggest(keys[0], header)}")

    def parse(fields: list[str]) -> str:
        if fields and len(fields) != len(header):
            raise RowError(f"{len(fields)} fields, but the header has {len(header)}")
        return fields[column] if fields else ""

    yield from _rows(str(path), records, parse)


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Lines counted from 1, without their ends."""
    return ((number, line.rstrip("\r\n")) for number, line in enumerate(file, start=1))


def _rows(
    where: str, records: Iterator[tuple[int, Any]], parse: Callable[[Any], str]
) -> Iterator[Item]:
    """An input for each record of a file; blank lines at its end are none."""
    for line, record in without_last_blanks(records):
        try:
            given = parse(record)
            check_characters(given)
            if not given or given.isspace():
                raise RowError("empty")
        except RowError as problem:
            shown = record if isinstance(record, str) else ",".join(record)
            yield Item(shown, f"{where}, line {line}: {problem}")
        else:
            yield Item(given)


def _parse_json(keys: Sequence[str], line: str) -> str:
    """The string under the first of `keys` that an object has; or a string itself."""
    expected = f'expected {{"{keys[0]}": "..."}} or a string'
    check_characters(line)
    try:
        found = json.loads(line) if line.strip() else ""
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON: {error.msg} at column {error.colno}: {expected}") from None
    except (ValueError, RecursionError):
        raise RowError("not readable JSON: a number too long, or nested too deeply") from None
    if isinstance(found, dict):
        key = next((key for key in keys if key in found), None)
        if key is None:
            held = ", ".join(map(repr, found)) or "none"
            raise RowError(f"no key '{keys[0]}'; it has {held}")
        found = found[key]
    if not isinstance(found, str):
        raise RowError(f"{expected}; got {json_type(found)}")
    return found
