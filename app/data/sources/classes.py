"""What classes are called: names that cannot be mistaken for each other, in a fixed order."""

import functools
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal

from app.errors import UserError

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")
# As numbers are written, so without leading zeros: 007 is a name.
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
# What pandas, R and SQL write for a missing value.
_MISSING = ("nan", "na", "n/a", "null")

# Seen by nobody: zero-width space, word joiner, and the byte order mark inside a text.
_INVISIBLE = str.maketrans("", "", "\u200b\u2060\ufeff")
_SPACES = re.compile(r"[^\S\r\n]+")  # a line break is wrong in a label, and stays to be found


@functools.lru_cache(maxsize=65536)
def clean_class_name(name: str) -> str:
    """The name in the one form in which names that look equal are equal: without invisible
    characters, composed (NFC, Unicode Standard Annex 15), white space trimmed and collapsed.

    Case and compatibility characters stay: 'A' is not 'a', and '²' is not '2'.
    """
    visible = unicodedata.normalize("NFC", name.translate(_INVISIBLE))
    return _SPACES.sub(" ", visible).strip()


def merges(spellings: Mapping[str, Collection[str]], source: str) -> Iterator[str]:
    """A note for each class that was written in more than one way.

    Args:
        spellings: the ways in which each class name was written, as they were given.
        source: the file or folder that they come from.
    """
    for name, ways in spellings.items():
        if len(ways) > 1:
            written = ", ".join(map(ascii, sorted(ways)))
            yield f"{source}: class '{name}' is one, written in {len(ways)} ways: {written}"


def says_missing(label: str) -> bool:
    """Whether a label is what programs write for a missing value, such as 'nan'."""
    return label.casefold() in _MISSING


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether a column of labels is one of numbers: every one that is not missing is written as a
    number, as in 1.0, 0.0, nan. In any other column all are names: 1e5, NA, 007."""
    found = False
    for label in labels:
        if not says_missing(label):
            if not _NUMBER.fullmatch(label):
                return False
            found = True
    return found


def number_class(label: str) -> str:
    """The class of a label in a column of numbers: '1' for '1.0'.

    Raises ValueError that says why the label is not a class.
    """
    if says_missing(label):
        raise ValueError(f"label {label} marks a missing value: every example needs a label")
    if not _NUMBER.fullmatch(label):  # of a test table, and not among the classes of training
        return label
    if _WHOLE_NUMBER.fullmatch(label):
        return label.removeprefix("+")
    # From 1e15 on, the digits would be those of the nearest float, not those that were meant.
    if abs(value := float(label)) < 1e15 and value.is_integer():
        return str(int(value))
    raise ValueError(f"label {label:.40}, but a class is a name or a whole number")


def check_class_names(
    names: Iterable[str], source: str, lines: Mapping[str, int] | None = None
) -> None:
    """Refuse names that differ only by case, such as 'Cat' and 'cat': most often one class.

    Args:
        names: class names; repeated ones do no harm.
        source: the file or folder that they come from, for the message.
        lines: for a file, the line of each name, for the message.

    Raises:
        UserError: names the first two that differ only by case.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            first, second = (
                f"'{each}'" + (f" (line {lines[each]})" if lines else "") for each in (other, name)
            )
            raise UserError(
                f"{source}: the classes {first} and {second} differ only by case: write them "
                "alike if they are one class, or say that they are two: "
                "--case-sensitive-classes true"
            )


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names: by value if all are whole numbers, otherwise by code points."""
    distinct = sorted(set(names))
    if all(_WHOLE_NUMBER.fullmatch(name) for name in distinct):
        # Not int: it refuses more than 4300 digits. Equal numbers ('1', '01') stay as sorted.
        distinct.sort(key=Decimal)
    return tuple(distinct)
