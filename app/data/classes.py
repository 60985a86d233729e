"""What classes are called: names that cannot be mistaken for each other, in a fixed order."""

import functools
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal

from app.errors import UserError

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]+)?")

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


def reads_as_float(label: str) -> bool:
    """Whether text such as '1.0', '.5' or '1e3' is a number that is not written as a whole one."""
    return _FLOAT.fullmatch(label) is not None


def label_problem(label: str, is_float: bool) -> str | None:
    """Why a label cannot name a class; None if it can. `is_float` says that it is a number."""
    if "\n" in label or "\r" in label:
        return f"label {label[:40]!r} has a line break: the name of a class is one line"
    if label.lower() == "nan":
        return f"label {label} says that there is none: every example needs one"
    if not is_float:
        return None
    value = float(label)
    # Beyond 1e15 the digits would be those of the nearest float, not those that were meant.
    hint = f": write {int(value)}" if value.is_integer() and abs(value) < 1e15 else ""
    return f"label {label:.40}, but a class is a name or a whole number{hint}"


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
