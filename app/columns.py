"""Tables on the terminal and in logs, drawn by rich as plain text."""

from collections.abc import Sequence

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

# Nothing is cut or wrapped: a path stays on one line, so it can be copied, screen or not.
WIDTH = 1_000_000
GAP = 2  # before each column


def columns(rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """The rows, with cells aligned in columns. A Chinese character counts as two wide.

    `numbers`: all columns but the first are numbers, and aligned to the right.
    """
    table = Table.grid(padding=(0, 0, 0, GAP), pad_edge=True)
    for place in range(len(rows[0])):
        side: JustifyMethod = "right" if numbers and place else "left"
        table.add_column(overflow="fold", justify=side)
    for row in rows:
        table.add_row(*(Text(cell.expandtabs()) for cell in row))  # a [class] is not markup
    lines = Console(width=WIDTH, color_system=None).render_lines(table, pad=False)
    return "\n".join("".join(part.text for part in line).rstrip() for line in lines)
