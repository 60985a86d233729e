"""Delimited files as records, once it is known how they are written."""

import csv
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from app.data.sources.table_files import lines_of
from app.errors import UserError

NAMES = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
# The line on which a record begins, counted from 1, and its fields.
Records = Iterator[tuple[int, list[str]]]


@dataclass(frozen=True)
class Dialect:
    """How fields are told apart.

    `quotes`: "none" (a quote is text), "doubled" (RFC 4180) or "escaped" (a quote within quotes is
    written \\"); `skip_spaces`: a space after the separator is not part of the field; `skipped`:
    lines before the header; `header`: the columns; `has_header`: whether the file names them.
    """

    separator: str
    quotes: Literal["none", "doubled", "escaped"] = "doubled"
    skip_spaces: bool = False
    skipped: int = 0
    header: tuple[str, ...] = ()
    has_header: bool = True

    def __str__(self) -> str:
        parts = [f"separator {NAMES.get(self.separator, repr(self.separator))}"]
        if self.separator == "\t" and self.quotes == "doubled":
            parts.append("quoted texts")
        if self.quotes == "escaped":
            parts.append('quotes escaped as \\"')
        if self.skip_spaces:
            parts.append("spaces after it left out")
        if not self.has_header:
            parts.append("no header")
        return ", ".join(parts)


class BrokenQuotesError(Exception):
    """The quotes of a file do not fit a dialect: the line where the record begins, and why."""

    def __init__(self, line: int, reason: str):
        super().__init__(line, reason)
        self.line = line
        self.reason = reason


def read_records(path: Path, file: TextIO, dialect: Dialect) -> Records:
    """The records after the header, blank lines left out; UserError for broken quotes."""
    records = records_of(file, dialect)
    try:
        yield from itertools.islice(records, int(dialect.has_header), None)
    except BrokenQuotesError as broken:
        raise bad_quotes(path, broken) from None


def bad_quotes(path: Path, broken: BrokenQuotesError) -> UserError:
    """What to say of a file whose quotes are broken."""
    return UserError(
        f"{path}, line {broken.line}: not valid CSV: {broken.reason}. Check the quotes of the row "
        'that begins here: a quoted field ends with a quote, and a quote within it is written ""'
    )


def records_of(file: TextIO, dialect: Dialect, raw: list[str] | None = None) -> Records:
    """All records from the start, header included, blank lines left out.

    `raw` is filled with the lines of the record that is given. Raises BrokenQuotesError.
    """
    csv.field_size_limit(sys.maxsize)  # 131072 characters otherwise, for the whole process
    kept = [] if raw is None else raw
    lines: Iterator[str] = itertools.islice(lines_of(file), dialect.skipped, None)

    def noted(lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            kept.append(line)
            yield line

    if raw is not None:
        lines = noted(lines)
    if dialect.quotes == "escaped":
        lines = (line.replace('\\"', '""') for line in lines)
    reader = csv.reader(
        lines,
        delimiter=dialect.separator,
        quoting=csv.QUOTE_NONE if dialect.quotes == "none" else csv.QUOTE_MINIMAL,
        skipinitialspace=dialect.skip_spaces,
        strict=True,
    )
    begins = 1
    try:
        for fields in reader:
            if fields and (len(fields) > 1 or fields[0].strip()):
                yield dialect.skipped + begins, fields
            kept.clear()
            begins = reader.line_num + 1  # a quoted field may span lines
    except csv.Error as error:
        raise BrokenQuotesError(dialect.skipped + begins, str(error)) from None
