"""Reads a table of texts or images, or the message about it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.data.bad import BadExamples
from app.data.sources.table_files import DELIMITED, JSON
from app.data.sources.tables import Table, read_table
from app.errors import UserError

SUFFIXES = (*DELIMITED, *JSON)

HEADER = {".csv": "text,label\n", ".tsv": "text\tlabel\n", ".jsonl": ""}
Write = Callable[[str, str | bytes], Path]


def read(path: Path, input_key: str | None = None, label_key: str | None = None) -> Table:
    """Read a file all of whose rows are good."""
    bad = BadExamples()
    table = read_table(path, input_key, label_key, bad)
    assert bad.found == []
    assert len(table.inputs) == len(table.labels[0].names) == len(table.lines)
    return table


def rows(path: Path, *keys: str | None) -> list[tuple[str | None, ...]]:
    """The input and the labels of each row."""
    table = read(path, *keys)
    return list(zip(table.inputs, *(column.names for column in table.labels), strict=True))


def message_of(path: Path, *keys: str | None, policy: str = "error") -> str:
    with pytest.raises(UserError) as caught:
        read_table(path, *(keys or (None, None)), BadExamples(policy))
    return str(caught.value)


def file_message(path: Path, *keys: str | None) -> str:
    """The message about a file that cannot be used whatever the policy for bad rows is."""
    message = message_of(path, *keys)
    assert message_of(path, *keys, policy="skip") == message
    assert "--on-bad" not in message
    return message
