"""Parquet files as rows. Needs pyarrow, which comes with TensorFlow Datasets."""

import contextlib
import datetime
import decimal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from app.data.sources.dialects import Choose
from app.data.sources.table_files import check_file
from app.data.sources.table_rows import Rows, check_values
from app.errors import UserError

ROWS_AT_ONCE = 4096


@contextlib.contextmanager
def open_parquet(path: Path, choose: Choose) -> Iterator[Rows]:
    """The rows of a Parquet file, counted from 1; see `open_rows`."""
    try:
        check_file(path)
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = choose(tuple(file.schema_arrow.names))
            yield Rows(columns, _records(path, file, columns), _values, True, "Parquet")
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read as Parquet: {reason}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _records(
    path: Path, file: pyarrow.parquet.ParquetFile, columns: tuple[str, ...]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    number = 0
    # To pyarrow a dot in the name of a column means a part of it.
    wanted = None if any("." in name for name in columns) else list(columns)
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted):
        values = [map(_plain, batch.column(name).to_pylist()) for name in columns]
        for row in zip(*values, strict=True):
            number += 1
            yield number, row


def _values(row: tuple[Any, ...]) -> tuple[Any, ...]:
    check_values(row)
    return row


def _plain(value: Any) -> Any:
    """Exact numbers and dates as they are written."""
    if isinstance(value, decimal.Decimal):
        return float(value)
    return str(value) if isinstance(value, datetime.date) else value
