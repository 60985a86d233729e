"""Texts from a CSV file with a header: one text column, one label column."""

import csv
from pathlib import Path

from app.errors import UserError, suggest


def read_csv(
    path: Path, text_column: str | None, label_column: str | None
) -> tuple[list[str], list[str]]:
    """(texts, label names) of a CSV file, both lists of str, one entry per row.

    Columns default to 'text' and 'label'. Raises UserError with the file and the line for a
    missing column, an empty cell, a row of the wrong length, or a file that is not UTF-8.
    """
    text_column, label_column = text_column or "text", label_column or "label"
    texts: list[str] = []
    labels: list[str] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if not header:
                raise UserError(f"{path} is empty: expected a header line with column names")
            text, label = (
                _column(path, header, name, flag)
                for name, flag in ((text_column, "--input-key"), (label_column, "--label-key"))
            )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if not row:
                    raise UserError(f"{where}: empty line: remove it")
                if len(row) != len(header):
                    raise UserError(
                        f"{where}: {len(row)} fields, but the header has {len(header)}: "
                        "quote texts that hold commas"
                    )
                if not row[text].strip() or not row[label].strip():
                    column = text_column if not row[text].strip() else label_column
                    raise UserError(f"{where}: column '{column}' is empty: fill or remove the row")
                texts.append(row[text])
                labels.append(row[label].strip())
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from None
    if not texts:
        raise UserError(f"{path} has a header but no rows")
    return texts, labels


def _column(path: Path, header: list[str], name: str, flag: str) -> int:
    if header.count(name) > 1:
        raise UserError(f"{path} has {header.count(name)} columns called '{name}': rename one")
    if name not in header:
        raise UserError(
            f"{path} has no column '{name}': {suggest(name, header)}. Name the column with {flag}"
        )
    return header.index(name)
