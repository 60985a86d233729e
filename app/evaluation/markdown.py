"""Texts of others in Markdown that shows them as they are: class names, paths, texts of the data.

Understood alike by CommonMark, GitHub and TensorBoard, which knows fewer backslashes than they.
"""

import re
from collections.abc import Sequence

CELL_CHARACTERS = 160
# GitHub takes ~~ for deleted and $ for mathematics; TensorBoard has no backslash for these.
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "~": "&#126;", "$": "&#36;"}
ESCAPES = str.maketrans(ENTITIES | {sign: "\\" + sign for sign in "\\`*[]|"})
# Within a word it means nothing, and names of keys stay legible.
UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")


def plain(text: str) -> str:
    """A text within a line; line breaks become blanks."""
    return UNDERSCORE.sub(r"\\_", " ".join(text.split()).translate(ESCAPES))


def cell(text: str) -> str:
    """A text in a cell of a table, cut if it is long."""
    line = " ".join(text[: 2 * CELL_CHARACTERS].split())
    return plain(line if len(line) <= CELL_CHARACTERS else line[: CELL_CHARACTERS - 1] + "…")


def code(text: str) -> str:
    """A text within a line, to be copied; not for tables, where a | would end it."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    blank = " " if "`" in (line[:1], line[-1:]) else ""
    return f"{fence}{blank}{line}{blank}{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
