"""What is said of files and rows that cannot be used.

The row tests run under both policies: "error" stops at the bad row and names it; "skip" keeps
the rows around it.
"""

import json
import os
from pathlib import Path

import pytest

from app.config import Data
from app.data.bad import BadExamples
from app.data.catalogue import load_dataset
from app.data.sources.tables import read_table
from app.errors import UserError
from tests.single.data.reading import HEADER, SUFFIXES, file_message, message_of

# Files that cannot be used


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", b"\xef\xbb\xbf", "is empty"),
        ("a.csv", "\n", "is empty"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.csv", "text,label\n\n\n", "has no rows"),
        ("a.tsv", "", "is empty"),
        ("a.tsv", "text\tlabel", "has no rows"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "\n \n", "has no rows"),
        ("a.csv", b"t\xe9xt,label\na,x\n", "line 1 (the header): not UTF-8 text (byte 0xe9)"),
        ("a.csv", "text,label\na,x\n".encode("utf-16-le"), "line 1 (the header): holds a NUL"),
        ("a.txt", "text,label\na,x\n", "ends with .csv, .tsv, .jsonl, .ndjson"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(write, name: str, content, reason: str) -> None:
    path = write(name, content)
    assert str(path) in file_message(path)
    assert reason in file_message(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_utf_16_and_32_are_named_with_the_way_out(write, suffix: str, encoding: str) -> None:
    path = write("a" + suffix, "\ufefftext,label\na,x\n".encode(encoding))
    message = file_message(path)
    assert f"{path} is not UTF-8 text but {encoding[:6].upper()}: convert it to UTF-8" in message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / ("none" + suffix)
    assert file_message(path) == f"no file {path}"
    path.mkdir()
    assert file_message(path) == f"{path} cannot be read: it is a folder"
    assert file_message(path / ("a" + suffix)) == f"no file {path / ('a' + suffix)}"
    pipe = tmp_path / ("pipe" + suffix)
    os.mkfifo(pipe)
    assert file_message(pipe) == f"{pipe} cannot be read: it is not a file"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_the_system_cannot_read_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / ("broken" + suffix)
    path.symlink_to("/proc/self/mem")  # opens, but fails to read, even for root
    assert file_message(path) == f"{path} cannot be read: Input/output error"
    path = tmp_path / ("x" * 300 + suffix)
    assert file_message(path) == f"{path} cannot be read: File name too long"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('text,label\na,x\n"b" c,x\nd,y\n', 3),
        ('text,label\n"a\nb",x\n"c\nd,x\ne,y\n\n\n', 4),  # not 9, the end of the file
        ('text,label\n"c\nd,x\ne,"y"\n', 2),
        ('"text,label\na,x\n', 1),
    ],
)
def test_broken_quotes_are_named_by_the_line_where_the_row_begins(write, content, line) -> None:
    path = write("a.csv", content)
    message = file_message(path)
    assert message.startswith(f"{path}, line {line}: not valid CSV: ")
    assert "expected after" in message or "unexpected end of data" in message  # what csv says
    assert "Check the quotes of the row that begins here" in message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_that_differ_only_by_case_are_refused(write, suffix: str) -> None:
    labels = ["Cat", "dog", "Cat", "cat"]
    if suffix in (".csv", ".tsv"):
        tab = "," if suffix == ".csv" else "\t"
        lines = [f"text{tab}label", *(f"a{tab}{label}" for label in labels)]
    else:
        lines = ["", *(json.dumps({"text": "a", "label": label}) for label in labels)]
    path = write("a" + suffix, "\n".join(lines))
    with pytest.raises(UserError) as caught:
        load_dataset(Data(dataset=str(path)), 0, BadExamples("skip"))
    assert f"{path}: the classes 'Cat' (line 2) and 'cat' (line 5) differ only by case" in str(
        caught.value
    )


# Rows that cannot be used

GOOD = {
    ".csv": ("first,x\n", '"second\nhalf",y\n'),
    ".tsv": ("first\tx\n", "second half\ty\n"),
    ".jsonl": (
        '{"text": "first", "label": "x"}\n',
        '{"text": "second half", "label": "y"}\n',
    ),
}
BAD_ROWS = [
    (".csv", ",y", "column 'text' is empty"),
    (".csv", "  ,y", "column 'text' is empty"),
    (".csv", '"\n",y', "column 'text' is empty"),
    (".csv", "a,", "column 'label' is empty"),
    (".csv", "a,\u00a0", "column 'label' is empty"),
    (".csv", "a", "1 fields, but the header has 2: quote texts that hold commas"),
    (".csv", "a, b,y", "3 fields, but the header has 2"),
    (".csv", b"caf\xe9,y", "not UTF-8 text (byte 0xe9): convert the file to UTF-8"),
    (".csv", b"a,\xff\xfe", "not UTF-8 text (byte 0xff)"),
    (".csv", b"\xed\xa0\x80,x", "not UTF-8 text (byte 0xed)"),
    (".csv", "a\0b,y", "holds a NUL character"),
    (".csv", "a,y\0", "holds a NUL character"),
    (".tsv", "\ty", "column 'text' is empty"),
    (".tsv", "a\t ", "column 'label' is empty"),
    (".tsv", "a\tb\ty", "3 fields, but the header has 2: texts cannot hold tabs"),
    (".tsv", "a y", "1 fields, but the header has 2"),
    (".tsv", b"caf\xe9\ty", "not UTF-8 text (byte 0xe9)"),
    (".tsv", "a\0\ty", "holds a NUL character"),
    (".jsonl", "\u00a0", "not valid JSON: Expecting value"),
    (".jsonl", '{"text": "a"', "not valid JSON: Expecting ',' delimiter at column 13"),
    (".jsonl", '{"text": "a", "label": "x"},', "not valid JSON: Extra data"),
    (".jsonl", "[" * 100_000, "not readable JSON"),
    (".jsonl", '{"text": "a", "label": ' + "1" * 5000 + "}", "not readable JSON"),
    (".jsonl", '["a", "y"]', 'expected an object such as {"text": ..., "label": ...}; got list'),
    (".jsonl", "null", "expected an object such as"),
    (".jsonl", '{"label": "y"}', "no key 'text'; it has 'label'"),
    (".jsonl", '{"text": "a", "lable": "y"}', "no key 'label'; it has 'text', 'lable'"),
    (".jsonl", "{}", "no key 'text'; it has none"),
    (".jsonl", '{"text": 5, "label": "y"}', "'text' must be a string; got int"),
    (".jsonl", '{"text": null, "label": "y"}', "'text' must be a string; got null"),
    (".jsonl", '{"text": " ", "label": "y"}', "column 'text' is empty"),
    (".jsonl", '{"text": "a", "label": ""}', "column 'label' is empty"),
    (".jsonl", '{"text": "a", "label": null}', "'label' must be a string, a whole number or a"),
    (".jsonl", '{"text": "a", "label": ["y"]}', "or a boolean; got list"),
    (".jsonl", '{"text": "a", "label": NaN}', "label nan marks a missing value"),
    (".jsonl", '{"text": "a", "label": -Infinity}', "label -inf is not a class"),
    (".jsonl", b'{"text": "caf\xe9", "label": "y"}', "not UTF-8 text (byte 0xe9)"),
    (".jsonl", '{"text": "a\\ud83d", "label": "y"}', "not UTF-8 text (\\ud83d is half a char"),
    (".jsonl", '{"text": "a\\u0000", "label": "y"}', "holds a NUL character"),
    (".jsonl", '{"text": "a\0", "label": "y"}', "holds a NUL character"),
]


PLACED_ROWS = [
    pytest.param(place, *row, id=f"{place}-{row[0]}-{str(row[1])[:40]}")
    for row in BAD_ROWS
    for place in ("first", "middle", "last")
]


@pytest.mark.parametrize(("place", "suffix", "row", "reason"), PLACED_ROWS)
def test_a_bad_row_is_named_or_skipped(write, place: str, suffix: str, row, reason) -> None:
    one, two = (text.encode() for text in GOOD[suffix])
    broken = (row if isinstance(row, bytes) else row.encode()) + b"\n"
    order = {"first": [broken, one, two], "middle": [one, broken, two], "last": [one, two, broken]}
    path = write("a" + suffix, HEADER[suffix].encode() + b"".join(order[place]))
    good_lines, bad_line, line = [], 0, 1 + bool(HEADER[suffix])
    for piece in order[place]:
        if piece is broken:
            bad_line = line
        else:
            good_lines.append(line)
        line += piece.count(b"\n")

    message = message_of(path)
    assert message.startswith(f"{path}, line {bad_line}: ")
    assert reason in message and "--on-bad skip" in message

    bad = BadExamples("skip")
    table = read_table(path, None, None, bad)
    second = "second\nhalf" if suffix == ".csv" else "second half"
    assert (table.inputs, table.labels[0].names) == (["first", second], ["x", "y"])
    assert table.lines == good_lines
    assert [found.where for found in bad.found] == [f"{path}, line {bad_line}"]
    assert reason.removesuffix(". ").removesuffix(".") in bad.found[0].reason


def test_bad_rows_are_collected_in_order_with_those_of_other_files(write) -> None:
    bad = BadExamples("skip")
    bad.add("other file", "other reason")
    path = write("a.csv", 'text,label\n,x\n"a\nb",y\n\nc,\nd,x\n')
    assert read_table(path, None, None, bad).lines == [3, 7]
    assert [found.where.rpartition(" ")[2] for found in bad.found] == ["file", "2", "6"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "text,label\na,\n,y\n", "line 2: column 'label' is empty"),
        ("a.tsv", "text\tlabel\na\n", "line 2: 1 fields, but the header has 2"),
        ("a.jsonl", "text\nlabel\n", "line 1: not valid JSON"),
        ("a.jsonl", "[]\n{}\n", "line 1: expected an object"),
        ("a.jsonl", '{"text": "a", "label": null}', "line 1: 'label' must be a string"),
    ],
)
def test_a_file_with_no_good_row_is_refused_even_if_bad_ones_are_skipped(
    write, name: str, content: str, reason: str
) -> None:
    path = write(name, content)
    bad = BadExamples("skip")
    bad.add("other file", "other reason")
    with pytest.raises(UserError) as caught:
        read_table(path, None, None, bad)
    assert f"{path} has no good row" in str(caught.value) and reason in str(caught.value)
