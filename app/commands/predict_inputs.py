"""What `predict` is given, as a stream of items: files, folders, tables, JSON Lines."""

import functools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from app.commands.saved_run import SavedRun
from app.data.sources.dialects import MissingColumnError
from app.data.sources.file_names import (
    IMAGE_SUFFIXES,
    NOT_READ,
    counted,
    is_hidden,
    is_image,
    is_unread,
    suffix_of,
)
from app.data.sources.table_files import (
    DELIMITED,
    JSON,
    SUFFIXES,
    check_file,
    encoding_of,
    open_text,
    place,
    table_suffix,
)
from app.data.sources.table_rows import (
    Reading,
    RowError,
    WrittenNumber,
    check_characters,
    join_texts,
    json_records,
    open_rows,
    read_json,
    type_of,
)
from app.data.sources.tables import input_columns
from app.errors import UserError, suggest

TEXT_SUFFIXES = (".txt", *SUFFIXES)


class Item(NamedTuple):
    """One input: a text or the path of an image; or, with an error, what was given instead."""

    given: str
    error: str | None = None


def read_items(run: SavedRun, inputs: Iterable[str]) -> Iterator[Item]:
    """Every input in order; a file that cannot be read counts as one input with an error."""
    data = run.config.data
    keys = ([data.input_key] if data.input_key else []) + [run.kind]
    reading = Reading(data.encoding, data.header, data.separator)
    for given in inputs:
        try:
            if given == "-":
                yield from _standard_input(keys)
            elif run.kind == "text":
                yield from _text_file(Path(given), keys, reading)
            elif os.path.isdir(given):
                yield from _images_of(given)
            else:
                yield Item(given)
        except UserError as error:
            yield Item(given, str(error))
        except OSError as error:
            yield Item(given, f"cannot be read: {error.strerror or error}")


def _images_of(folder: str) -> Iterator[Item]:
    """All images in a folder, or an error if there are none; standard error says what else it
    holds."""
    others: Counter[str] = Counter()
    images = _images_below(folder, (), others)
    first = next(images, None)
    looked_for = " ".join(IMAGE_SUFFIXES)
    yield first or Item(folder, f"no image in this folder: looked for {looked_for}")
    yield from images
    if others:
        print(f"{folder}: not images, skipped: {counted(others)}", file=sys.stderr)


def _images_below(folder: str, above: tuple[str, ...], others: Counter[str]) -> Iterator[Item]:
    """Images, known by their names, in the order of their paths; those of a format that is not
    read have an error. Everything else is counted in `others`."""
    real = os.path.realpath(folder)
    if real in above:
        yield Item(folder, "symbolic links form a loop: remove one")
        return
    try:
        with os.scandir(folder) as entries:
            # With a slash, as in their paths, folders sort where those paths do.
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
        lines = _lines(file)
        yield from _items(
            "standard input, line {}".format, lines, functools.partial(_parse_json, keys)
        )


def _text_file(path: Path, keys: Sequence[str], reading: Reading) -> Iterator[Item]:
    """The texts of a file: one per line, JSON object or row."""
    check_file(path)
    where = functools.partial(place, path)
    suffix = ".txt" if path.suffix.lower() == ".txt" else table_suffix(path)
    if suffix is None:
        raise UserError(f"{path}: expected a file that ends with {', '.join(TEXT_SUFFIXES)}")
    # The run's tables say little about this file: if it is UTF-8, it is read as such.
    encoding = encoding_of(path, reading.encoding)
    if suffix in (".txt", *JSON):
        with open_text(path, encoding, "\n") as file:
            if suffix == ".txt":
                yield from _items(where, _lines(file), str)
            else:
                parse = functools.partial(_parse_json, keys)
                yield from _items(where, json_records(path, file), parse)
        return

    def choose(columns: Sequence[str]) -> tuple[str, ...]:
        found = _first_there(keys, columns)
        if not found:
            hint = suggest(keys[0], columns)
            raise MissingColumnError(f"{path} has no column '{keys[0]}': {hint}")
        return found

    reading = (
        Reading(encoding, reading.header, reading.separator) if suffix in DELIMITED else Reading()
    )
    with open_rows(path, reading, choose) as rows:
        columns, parse_row = rows.columns, rows.parse
        yield from _items(
            where, rows.records, lambda record: join_texts(columns, parse_row(record))
        )


def _first_there(keys: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """The columns of the first key whose columns all exist; () if there is none."""
    chosen = (input_columns(key, columns) for key in keys)
    return next((names for names in chosen if all(name in columns for name in names)), ())


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Lines counted from 1, without line ends, and without empty lines at the end of the file."""
    blanks: list[tuple[int, str]] = []
    for number, line in enumerate(file, start=1):
        line = line.rstrip("\r\n")
        if line:
            yield from blanks
            blanks.clear()
            yield number, line
        else:
            blanks.append((number, line))


def _items(
    where: Callable[[int], str], records: Iterator[tuple[int, Any]], parse: Callable[[Any], str]
) -> Iterator[Item]:
    """An input for each record of a file; `where` describes the place of a line."""
    for line, record in records:
        try:
            given = parse(record)
            check_characters(given)
            if not given or given.isspace():
                raise RowError("empty")
        except RowError as problem:
            shown = record if isinstance(record, str) else ",".join(map(str, record))
            yield Item(shown, f"{where(line)}: {problem}")
        else:
            yield Item(given)


def _parse_json(keys: Sequence[str], line: str) -> str:
    """The text under the first of `keys` that an object has (several joined), or a bare string."""
    expected = f'expected {{"{keys[0]}": "..."}} or a string'
    check_characters(line)
    try:
        found = read_json(line) if line.strip() else ""
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON: {error.msg} at column {error.colno}: {expected}") from None
    except (ValueError, RecursionError):
        raise RowError(
            "not readable JSON: a number is too long, or it is nested too deeply"
        ) from None
    if isinstance(found, dict):
        names = _first_there(keys, tuple(found))
        if not names:
            held = ", ".join(map(repr, found)) or "none"
            raise RowError(f"no key '{keys[0]}'; it has {held}")
        if len(names) > 1:
            return join_texts(names, [found[name] for name in names])
        found = found[names[0]]
    if not isinstance(found, str) or isinstance(found, WrittenNumber):
        raise RowError(f"{expected}; got {type_of(found)}")
    return found
