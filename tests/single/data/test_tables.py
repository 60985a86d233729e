"""CSV, TSV and JSON Lines files: what is read, and what is said of the files and rows that are not.

The row tests run under both policies: "error" stops at the bad row and names it; "skip" keeps
the rows around it.
"""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.config import Data
from app.data.bad import BadExamples
from app.data.catalogue import load_dataset
from app.data.sources.classes import check_class_names, sort_class_names
from app.data.sources.file_names import IMAGE_SUFFIXES
from app.data.sources.table_files import DELIMITED, JSON
from app.data.sources.tables import Table, read_table
from app.errors import UserError

SUFFIXES = (*DELIMITED, *JSON)

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file and returns its path."""

    def to(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


def read(path: Path, input_key: str | None = None, label_key: str | None = None) -> Table:
    """Read a file all of whose rows are good."""
    bad = BadExamples()
    table = read_table(path, input_key, label_key, bad)
    assert bad.found == []
    assert len(table.inputs) == len(table.labels) == len(table.lines)
    return table


def rows(path: Path, *keys: str | None) -> list[tuple[str, str]]:
    table = read(path, *keys)
    return list(zip(table.inputs, table.labels, strict=True))


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


# What is read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\na b,x\nc,y\n"),
        ("a.CSV", "text,label\na b,x\nc,y"),
        ("a.csv", b"\xef\xbb\xbftext,label\r\na b,x\r\nc,y\r\n"),
        ("a.csv", '"text",label\n"a b","x"\n"c",y\n\n'),
        ("a.csv", "text,label\ra b,x\rc,y\r"),
        ("a.tsv", "text\tlabel\na b\tx\nc\ty\n"),
        ("a.tsv", b"\xef\xbb\xbftext\tlabel\r\na b\tx\r\nc\ty\r\n\r\n"),
        ("a.jsonl", '{"text": "a b", "label": "x"}\n{"text": "c", "label": "y"}\n'),
        ("a.ndjson", '{"label": "x", "text": "a b"}\n {"text": "c", "label": "y", "z": [1]} '),
        ("a.jsonl", '{"text": "a b",\r"label": "x"}\n{"text": "c", "label": "y"}\n'),
        ("a.jsonl", b'\xef\xbb\xbf{"text":"a b","label":"x"}\r\n{"text":"c","label":"y"}\r\n\r\n'),
    ],
)
def test_rows_are_read_in_order_from_every_format(write, name: str, content: str) -> None:
    path = write(name, content)
    assert read(path) == Table(path, "text", ["a b", "c"], ["x", "y"], read(path).lines)


def test_columns_may_have_any_name_and_place(write) -> None:
    expected = [("how to pay", "pay"), ("stop it", "stop")]
    path = write("a.csv", "id,intent,utterance\n1, pay ,how to pay\n2,stop,stop it\n")
    assert rows(path, "utterance", "intent") == expected
    path = write("a.tsv", "id\tintent\tutterance\n1\tpay\thow to pay\n2\tstop\tstop it\n")
    assert rows(path, "utterance", "intent") == expected
    objects = [{"intent": label, "id": 1, "utterance": text} for text, label in expected]
    path = write("a.jsonl", "\n".join(map(json.dumps, objects)))
    assert rows(path, "utterance", "intent") == expected


def test_quotes_hold_commas_line_breaks_and_quotes(write) -> None:
    path = write("some.csv", 'text,label\r\n"a ""b"",\r\nc",x\r\n')
    assert rows(path) == [('a "b",\r\nc', "x")]


def test_a_quote_in_tsv_is_text(write) -> None:
    path = write("some.tsv", 'text\tlabel\n"a\t"x\nsay ""b""\ty\n')
    assert rows(path) == [('"a', '"x'), ('say ""b""', "y")]


def test_a_line_separator_of_unicode_does_not_end_a_row(write) -> None:
    text = "a\u2028b\x0bc\x85d"
    assert rows(write("a.csv", f"text,label\n{text},x\n")) == [(text, "x")]
    assert rows(write("a.tsv", f"text\tlabel\n{text}\tx\n")) == [(text, "x")]
    assert rows(write("a.jsonl", '{"text": "a\u2028b", "label": "x"}\n')) == [("a\u2028b", "x")]


def test_a_text_of_a_million_characters_is_read(write) -> None:
    text = "word " * 200_000
    csv.field_size_limit(131_072)  # as a fresh process has it
    assert rows(write("a.csv", f"text,label\n{text},x\n")) == [(text, "x")]
    csv.field_size_limit(131_072)
    assert rows(write("a.tsv", f"text\tlabel\n{text}\tx\n")) == [(text, "x")]


def test_each_row_knows_the_line_on_which_it_begins(write) -> None:
    path = write("a.csv", 'text,label\n"1\n2\r\n3",x\nb,"y\n"\nc,x\n')
    table = read(path)
    assert table.lines == [2, 5, 7]
    assert table.where(1) == f"{path}, line 5"
    assert read(write("b.csv", '"text\n",label\na,x\n'), "text\n").lines == [3]
    assert read(write("a.tsv", "text\tlabel\na\tx\nb\ty\n")).lines == [2, 3]
    path = write("a.jsonl", '{"text":"a","label":"x"}\n{"text":"b","label":"y"}')
    assert read(path).lines == [1, 2]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("3", "3"),
        ("-1", "-1"),
        ("true", "true"),
        ("false", "false"),
        ('" 0.5 "', "0.5"),
        ('"\\u00e9"', "é"),
        ("12345678901234567890", "12345678901234567890"),
    ],
)
def test_a_json_label_may_be_a_string_an_integer_or_a_boolean(write, label: str, name: str) -> None:
    assert rows(write("a.jsonl", f'{{"text": "a", "label": {label}}}')) == [("a", name)]


@pytest.mark.parametrize("label", ["1", "-2", "007", "v1.0", "1.2.3", "1e", "e5", "n a n", "3,5"])
def test_a_csv_label_may_be_a_name_or_a_whole_number(write, label: str) -> None:
    assert rows(write("a.csv", f'text,label\na,"{label}"\n')) == [("a", label)]


# Which column is the input, and what it holds


def table_of(write: Write, suffix: str, columns: list[str], first: list[str]) -> Path:
    """A file of one row."""
    if suffix in (".csv", ".tsv"):
        with io.StringIO() as file:
            writer = csv.writer(file, delimiter="," if suffix == ".csv" else "\t")
            writer.writerows([columns, first])
            return write("a" + suffix, file.getvalue())
    return write("a" + suffix, json.dumps(dict(zip(columns, first, strict=True))))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_a_text_column_the_input_is_the_image_column(write, suffix: str) -> None:
    table = read(table_of(write, suffix, ["image", "label"], ["one", "x"]))
    assert (table.inputs, table.kind) == (["one"], "image")
    table = read(table_of(write, suffix, ["label", "text"], ["x", "one"]))
    assert (table.inputs, table.kind) == (["one"], "text")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_with_both_columns_the_user_chooses(write, suffix: str) -> None:
    path = table_of(write, suffix, ["image", "text", "label"], ["p", "t", "x"])
    assert "column 'text' and a column 'image'" in file_message(path)
    assert "--input-key" in file_message(path)
    assert (read(path, "text").inputs, read(path, "text").kind) == (["t"], "text")
    assert (read(path, "image").inputs, read(path, "image").kind) == (["p"], "image")


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_an_input_that_ends_as_an_image_file_does_is_an_image(write, suffix: str) -> None:
    for name in (f"cats/1{suffix}", f"cats/1{suffix.upper()}"):
        assert read(write("a.csv", f"photo,label\n{name},x\nother,y\n"), "photo").kind == "image"


@pytest.mark.parametrize("first", ['"see\na.png"', '"see\ra.png"', "a.png is nice", "a.txt", "png"])
def test_any_other_input_is_a_text(write, first: str) -> None:
    assert read(write("a.csv", f"photo,label\n{first},x\nb.png,y\n"), "photo").kind == "text"


def test_the_first_good_row_says_what_the_inputs_are(write) -> None:
    path = write("a.csv", "photo,label\nnone,\nb.png,y\n")
    assert read_table(path, "photo", None, BadExamples("skip")).kind == "image"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_column_is_named_with_those_that_there_are(write, suffix: str) -> None:
    path = table_of(write, suffix, ["text", "category"], ["a", "b"])
    message = file_message(path)
    assert f"{path} has no column 'label': Valid: category, text. Name the column with" in message
    assert "--label-key" in message
    assert ("--header false" in message) == (suffix in DELIMITED)
    message = file_message(path, "txt", "category")
    assert "no column 'txt': did you mean 'text'?" in message and "--input-key" in message


def test_a_missing_json_key_is_named_with_those_of_the_first_object(write) -> None:
    path = write("a.jsonl", 'no object\n{"text": "a", "class": "x"}\n{"b": 1}\n')
    assert "no column 'label': Valid: class, text. " in file_message(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_column_cannot_be_both_input_and_label(write, suffix: str) -> None:
    path = table_of(write, suffix, ["text", "label"], ["a", "b"])
    assert "'label' cannot be both input and label" in file_message(path, "label", None)


@pytest.mark.parametrize(("name", "tab"), [("a.csv", ","), ("a.tsv", "\t")])
def test_two_columns_of_the_same_name_are_refused(write, name: str, tab: str) -> None:
    path = write(name, tab.join(["text", "label", "text"]) + "\n" + tab.join("axb") + "\n")
    assert file_message(path) == f"{path} has 2 columns called 'text': rename one"


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
HEADER = {".csv": "text,label\n", ".tsv": "text\tlabel\n", ".jsonl": ""}
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
    (".jsonl", '{"text": "a", "label": NaN}', "label nan says that there is none"),
    (".jsonl", '{"text": "a", "label": -Infinity}', "label -inf is no class"),
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
def test_a_bad_row_is_named_or_passed_over(write, place: str, suffix: str, row, reason) -> None:
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
    assert (table.inputs, table.labels) == (["first", second], ["x", "y"])
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
def test_a_file_with_no_good_row_is_refused_even_if_bad_ones_are_passed_over(
    write, name: str, content: str, reason: str
) -> None:
    path = write(name, content)
    bad = BadExamples("skip")
    bad.add("other file", "other reason")
    with pytest.raises(UserError) as caught:
        read_table(path, None, None, bad)
    assert f"{path} has no good row" in str(caught.value) and reason in str(caught.value)


# Properties

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(CHARACTERS, min_size=1).filter(str.strip)
# Texts of one line of a TSV file, as the format asks for; one in quotes could be that of pandas.
PLAIN = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\r\n"), min_size=1
).filter(lambda text: text.strip() and not text.startswith('"'))
LABELS = ["cat", "dog", "0", "a,b", 'say "x"', "é", "x y", "true"]
ROWS = st.lists(st.tuples(TEXTS, st.sampled_from(LABELS)), min_size=1)
PLAIN_ROWS = st.lists(st.tuples(PLAIN, st.sampled_from(LABELS)), min_size=1)
ONE_FILE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(ROWS)
@ONE_FILE
def test_what_csv_writes_is_read_back(write, pairs: list[tuple[str, str]]) -> None:
    # Before Python 3.13 a writer that ends lines with \n leaves texts that hold \r unquoted.
    for terminator, quoting in (("\r\n", csv.QUOTE_MINIMAL), ("\n", csv.QUOTE_ALL)):
        file = io.StringIO()
        writer = csv.writer(file, lineterminator=terminator, quoting=quoting)
        writer.writerows([("text", "label"), *pairs])
        assert rows(write("a.csv", file.getvalue())) == pairs


@given(PLAIN_ROWS)
@ONE_FILE
def test_what_is_joined_by_tabs_is_read_back(write, pairs: list[tuple[str, str]]) -> None:
    path = write("a.tsv", "".join("\t".join(pair) + "\n" for pair in [("text", "label"), *pairs]))
    assert rows(path) == pairs
    assert read(path).lines == list(range(2, len(pairs) + 2))


@given(ROWS, st.booleans())
@ONE_FILE
def test_what_json_writes_is_read_back(write, pairs, ascii_only: bool) -> None:
    objects = [{"text": text, "label": label} for text, label in pairs]
    lines = [json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in objects]
    path = write("a.jsonl", "".join(lines))
    assert rows(path) == pairs
    assert read(path).lines == list(range(1, len(pairs) + 1))


def check_any_bytes(path: Path) -> None:
    """Reading ends with a table or a UserError, and the two policies agree."""
    bad = BadExamples("skip")
    try:
        table = read_table(path, None, None, bad)
    except UserError:
        table = None
    if table is None or bad.found:
        assert message_of(path)
    else:
        assert read(path) == table
    if table is not None:
        assert len(table.inputs) == len(table.labels) == len(table.lines) > 0
        assert table.lines == sorted(set(table.lines))
        "".join(table.inputs + table.labels).encode()


@given(st.sampled_from(sorted(HEADER)), st.booleans(), st.binary())
@example(".csv", False, b"\xef\xbb")
@example(".jsonl", False, b"\xef\xbb")
@ONE_FILE
def test_no_bytes_make_anything_but_a_user_error(write, suffix: str, header, content) -> None:
    check_any_bytes(write("a" + suffix, HEADER[suffix].encode() * header + content))


VALID = {
    ".csv": 'text,label\r\n"a ""b"",\r\nc",x\r\nd é,y\n,z\n"e",1.0\n'.encode(),
    ".tsv": 'text\tlabel\n"a\tx\nb é\ty\n\tz\nc\t1.0\n'.encode(),
    ".jsonl": '{"text": "\\u00e9", "label": "x"}\n{"text": "é", "label": 1}\n{"a": 1}\n'.encode(),
}
PIECES = [b'"', b"\n", b"\r", b"\0", b",", b"\t", b"\xff", b"\xe9", b"\\u", b"{", b"[", b"1e9"]
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 3), st.sampled_from(PIECES) | st.binary(max_size=2)),
    min_size=1,
    max_size=4,
)


@given(st.sampled_from(sorted(VALID)), EDITS)
@settings(ONE_FILE, max_examples=500)
def test_no_damage_to_a_file_makes_anything_but_a_user_error(write, suffix: str, edits) -> None:
    content = VALID[suffix]
    for share, removed, inserted in edits:
        at = int(share * len(content))
        content = content[:at] + inserted + content[at + removed :]
    check_any_bytes(write("a" + suffix, content))


# Class names


def test_names_that_differ_only_by_case_are_named_with_their_source() -> None:
    check_class_names(["cat", "dog", "cat"], "photos")
    with pytest.raises(UserError, match=r"^photos: the classes 'Cat' and 'cAT' differ only by"):
        check_class_names(["dog", "Cat", "cAT"], "photos")
    with pytest.raises(UserError, match="'STRASSE' and 'straße'"):  # lower() would miss it
        check_class_names(["STRASSE", "straße"], "photos")


def test_whole_numbers_are_sorted_by_value_and_other_names_by_their_letters() -> None:
    assert sort_class_names(["10", "9", "-1", "9", "100"]) == ("-1", "9", "10", "100")
    assert sort_class_names(["10", "9", "x"]) == ("10", "9", "x")
    assert sort_class_names(["1", "01", "0"]) == sort_class_names(["01", "1", "0"])
    assert sort_class_names(["9" * 5000, "2"]) == ("2", "9" * 5000)
    assert sort_class_names(name for name in ("b", "a")) == ("a", "b")
    assert sort_class_names([]) == ()
