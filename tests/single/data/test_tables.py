"""CSV, TSV and JSON Lines files: what is read, which column is the input, and class names."""

import csv
import io
import json
from pathlib import Path

import pytest

from app.data.bad import BadExamples
from app.data.sources.classes import check_class_names, sort_class_names
from app.data.sources.file_names import IMAGE_SUFFIXES
from app.data.sources.table_files import DELIMITED
from app.data.sources.table_labels import LabelColumn
from app.data.sources.tables import Table, read_table
from app.errors import UserError
from tests.single.data.reading import SUFFIXES, Write, file_message, read, rows


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
    labels = (LabelColumn("label", ["x", "y"]),)
    assert read(path) == Table(path, "text", ["a b", "c"], labels, read(path).lines)


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
