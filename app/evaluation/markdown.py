"""Escapes foreign text, so that Markdown shows it as it is: class names, paths, texts of the data.

CommonMark, GitHub and TensorBoard all read it alike; TensorBoard knows fewer backslash escapes.
"""

import re
from collections.abc import Sequence

CELL_CHARACTERS = 160
# GitHub reads ~~ as deleted and $ as mathematics; TensorBoard has no backslash escapes for these.
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "~": "&#126;", "$": "&#36;"}
ESCAPES = str.maketrans(ENTITIES | {sign: "\\" + sign for sign in "\\`*[]|"})
# Within a word an underscore means nothing; unescaped, names of keys stay legible.
UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")


def plain(text: str) -> str:
    """A text within a line; line breaks become spaces."""
    return UNDERSCORE.sub(r"\\_", " ".join(text.split()).translate(ESCAPES))


def cell(text: str) -> str:
    """A text in a table cell, cut if it is long."""
    line = " ".join(text[: 2 * CELL_CHARACTERS].split())
    return plain(line if len(line) <= CELL_CHARACTERS else line[: CELL_CHARACTERS - 1] + "…")


def code(text: str) -> str:
    """A text within a line, to be copied; not for tables, where a | would end it."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    blank = " " if "`" in (line[:1], line[-1:]) else ""
    return f"{fence}{blank}{line}{blank}{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
