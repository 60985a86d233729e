"""Finds how a delimited file is written: its separator, quotes and header.

A dialect is found by what the file says, never by how often a character comes: a separator is the
one that makes the header name the columns that are asked for. Where that leaves a doubt, RFC 4180
(CSV) and IANA text/tab-separated-values (TSV) hold, and rows that do not fit them are bad rows.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TextIO

from app.data.sources.delimited import (
    NAMES,
    BrokenQuotesError,
    Dialect,
    Records,
    bad_quotes,
    records_of,
)
from app.data.sources.table_files import RowError, check_characters, lines_of, table_suffix
from app.errors import UserError

SAMPLED = 200  # records that tell the separator where no header does
_SEPARATOR_LINE = re.compile(r'"?sep=([^\r\n])"?[\r\n]*', re.IGNORECASE)
# What surrounds a name in a header without being part of it.
_SPACES = " \u00a0"

Choose = Callable[[Sequence[str]], tuple[str, ...]]


class MissingColumnError(UserError):
    """A column that is asked for is not there."""


def find_dialect(
    path: Path,
    file: TextIO,
    separator: str | None,
    has_header: bool,
    encoding: str,
    choose: Choose,
) -> Dialect:
    """The dialect of a file opened with newline="".

    Args:
        path: for messages; its suffix says which separator is the first guess.
        separator: the user's; None to find it.
        has_header: whether the first record names the columns; otherwise they are "1", "2", ...
        encoding: for messages.
        choose: the columns that are needed, of all; raises MissingColumnError if one is not there.

    Raises:
        UserError: the header cannot be read, lacks a column, or the separator remains in doubt.
    """
    default = "\t" if table_suffix(path) == ".tsv" else ","
    skipped, said = _separator_line(file)
    fixed = separator or said
    candidates = [fixed] if fixed else [default, *(one for one in NAMES if one != default)]
    guesses = [Dialect(one, _quotes_at_first(one, default), False, skipped) for one in candidates]
    find = _by_header if has_header else _by_records
    dialect = find(path, file, guesses, encoding, choose)
    if dialect.separator == "\t":
        dialect = replace(dialect, quotes=_quotes_of_tabs(file, dialect))
    else:
        dialect = replace(dialect, skip_spaces=_has_spaces_before_quotes(file, dialect))
        dialect = replace(dialect, quotes=_quotes_of_others(file, dialect))
    _check_first(path, file, dialect, encoding)
    header = _header(file, dialect) if has_header else dialect.header
    if has_header and _has_row_names(file, dialect, len(header)):
        header = ("", *header)
    return replace(dialect, header=header, has_header=has_header)


def _separator_line(file: TextIO) -> tuple[int, str | None]:
    """(lines before the header, the separator) by a first line `sep=;`, as Excel understands it."""
    for number, line in enumerate(lines_of(file), start=1):
        found = _SEPARATOR_LINE.fullmatch(line)
        if found:
            return number, found[1]
        if line.strip():
            break
    return 0, None


def _quotes_at_first(separator: str, default: str) -> Literal["none", "doubled"]:
    return "none" if separator == "\t" and default == "\t" else "doubled"


def _header(file: TextIO, dialect: Dialect) -> tuple[str, ...]:
    """The names of the columns; () if there are none, or the quotes are broken."""
    try:
        fields: list[str] = next(records_of(file, dialect), (1, []))[1]
    except BrokenQuotesError:
        return ()
    return tuple(name.strip(_SPACES).removeprefix("\ufeff") for name in fields)


def _by_header(
    path: Path, file: TextIO, guesses: list[Dialect], encoding: str, choose: Choose
) -> Dialect:
    """The guess under which the header has the columns that are needed."""
    found: list[tuple[int, MissingColumnError]] = []
    for guess in guesses:
        # A header may have quotes in a TSV, or a space before them: both are tried.
        tried = [replace(guess, skip_spaces=spaces) for spaces in (False, True)]
        if guess.quotes == "none":
            tried = [guess, replace(guess, quotes="doubled")]
        for one in tried:
            header = _header(file, one)
            if not header:
                continue
            try:
                choose(header)
            except MissingColumnError as error:
                found.append((len(header), error))
            else:
                return replace(one, header=header)
    _check_first(path, file, guesses[0], encoding)
    raise max(found, key=lambda one: one[0])[1]  # the first of those with the most columns


def _check_first(path: Path, file: TextIO, dialect: Dialect, encoding: str) -> None:
    """Raise UserError for an empty file, or a first record with broken quotes; and, if it is the
    header, with invalid characters."""
    try:
        line, fields = next(records_of(file, dialect), (1, []))
    except BrokenQuotesError as broken:
        raise bad_quotes(path, broken) from None
    if not fields:
        raise UserError(f"{path} is empty: expected rows, and a header with column names")
    try:
        check_characters("".join(fields) if dialect.has_header else "", encoding)
    except RowError as problem:
        raise UserError(f"{path}, line {line} (the header): {problem}") from None


def _by_records(
    path: Path, file: TextIO, guesses: list[Dialect], encoding: str, choose: Choose
) -> Dialect:
    """The guess under which the first records have equally many fields, two at least."""
    agreeing: list[Dialect] = []
    _check_first(path, file, replace(guesses[0], has_header=False), encoding)
    for guess in guesses:
        try:
            sizes = Counter(len(fields) for _, fields in _sample(file, guess))
        except BrokenQuotesError as broken:
            if len(guesses) == 1:
                raise bad_quotes(path, broken) from None
            continue
        width, number = sizes.most_common(1)[0]
        # The first guess, which the suffix or the user makes, may have some ragged rows.
        needed = 0.5 if guess is guesses[0] else 1.0
        if width > 1 and number >= needed * sizes.total():
            columns = tuple(map(str, range(1, width + 1)))
            agreeing.append(replace(guess, header=columns, has_header=False))
    if not agreeing or (len(agreeing) > 1 and agreeing[0].separator != guesses[0].separator):
        raise UserError(
            f"{path}: without a header its separator cannot be told: name it with --separator"
        )
    choose(agreeing[0].header)
    return agreeing[0]


def _sample(file: TextIO, dialect: Dialect) -> Records:
    return itertools.islice(records_of(file, dialect), SAMPLED)


def _has_spaces_before_quotes(file: TextIO, dialect: Dialect) -> bool:
    """Whether separators are followed by a space that is not part of the field: in the header, or
    before a quote, which would not count as one otherwise."""
    if dialect.skip_spaces:
        return True
    plain, raw = replace(dialect, quotes="none"), [""]
    header = next(records_of(file, plain), (1, []))[1] if dialect.has_header else []
    if len(header) > 1 and all(name.startswith(" ") for name in header[1:]):
        return True
    raw.clear()
    try:
        for _, fields in itertools.islice(records_of(file, dialect, raw), SAMPLED):
            text = "".join(raw)
            for field in fields[1:]:
                opened = field.startswith(" ") and field.lstrip(" ").startswith('"')
                # Of a field within quotes, the line has the quotes doubled.
                if opened and dialect.separator + field in text:
                    return True
    except BrokenQuotesError:
        pass
    return False


def _quotes_of_tabs(file: TextIO, dialect: Dialect) -> Literal["none", "doubled", "escaped"]:
    """Of a file with tabs: quoted if its header is (R), or if it is to the letter what a program
    writes that quotes where it must (pandas, Excel). In all others a quote is text."""
    plain = replace(dialect, quotes="none")
    if not any(field[:1] == '"' for _, fields in records_of(file, plain) for field in fields):
        return "none"
    if dialect.has_header:
        header = next(records_of(file, plain), (1, []))[1]
        if header and all(len(name) > 1 and name[0] == name[-1] == '"' for name in header):
            return _quotes_of_others(file, replace(dialect, quotes="doubled"))
    quoted = replace(dialect, quotes="doubled")
    # pandas quotes what has a tab, a quote or a line break in it; Excel also what has a comma.
    as_written = _is_as_written(file, quoted, "\t") or _is_as_written(file, quoted, "\t,")
    return "doubled" if as_written else "none"


def _is_as_written(file: TextIO, dialect: Dialect, quoted: str) -> bool:
    """Whether the file is to the letter what a program writes that quotes texts which hold one of
    the characters `quoted`, a quote or a line break, and no others; all rows equally long."""

    def write(field: str) -> str:
        if any(character in field for character in quoted + '"\r\n'):
            return '"' + field.replace('"', '""') + '"'
        return field

    raw: list[str] = []
    sizes = set()
    try:
        for _, fields in records_of(file, dialect, raw):
            line = "".join(raw).strip("\r\n")
            if '"' in line and dialect.separator.join(map(write, fields)) != line:
                return False
            if "," in quoted and "," in line and '"' not in line:
                return False
            sizes.add(len(fields))
    except BrokenQuotesError:
        return False
    return len(sizes) == 1


def _quotes_of_others(file: TextIO, dialect: Dialect) -> Literal["none", "doubled", "escaped"]:
    """ "escaped" if the file holds \\" and fits no other rule but that one wholly."""
    if not any('\\"' in line for line in lines_of(file)) or _fits(file, dialect):
        return "doubled"
    return "escaped" if _fits(file, replace(dialect, quotes="escaped")) else "doubled"


def _fits(file: TextIO, dialect: Dialect) -> bool:
    """Whether the quotes are valid and all rows have equally many fields, at most one more than the
    header (which lacks that of R's row names)."""
    try:
        first, *others = (len(fields) for _, fields in records_of(file, dialect))
    except (BrokenQuotesError, ValueError):
        return False
    return not others or (len(set(others)) == 1 and first in (others[0], others[0] - 1))


def _has_row_names(file: TextIO, dialect: Dialect, width: int) -> bool:
    """Whether each record has one field more than the header, and the first ones are different
    whole numbers: R's write.table puts the numbers of rows there."""
    try:
        records = list(itertools.islice(records_of(file, dialect), 1, SAMPLED))
    except BrokenQuotesError:
        return False
    names = [fields[0] for _, fields in records]
    return (
        bool(records)
        and all(len(fields) == width + 1 for _, fields in records)
        and all(name.isascii() and name.isdigit() for name in names)
        and len(set(names)) == len(names)
    )
