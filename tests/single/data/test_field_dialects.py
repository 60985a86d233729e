"""Dialects of tables as people have them: separators, headers, ends of lines, quotes, bad rows.

Each case is a small file, what the user says of it, and what must come of it.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.single.data.field_tables import AB, Case, Read, check, refused

COLUMNS: dict[str, Any] = {"input_key": "1", "label_key": "2", "header": False}

CASES: list[Case] = [
    # Separators
    ("semicolons", "t.csv", "text;label\na, b;x\n\"c; d\";y\n", {}, Read(AB, [2, 3], "';'")),
    ("tabs in a .csv", "t.csv", "text\tlabel\na, b\tx\nc; d\ty\n", {}, Read(AB, [2, 3], "tab")),
    ("commas in a .tsv", "t.tsv", 'text,label\n"a, b",x\nc; d,y\n', {}, Read(AB, [2, 3], "','")),
    ("pipes", "t.csv", "label|text\nx|a, b\ny|c; d\n", {}, Read(AB, [2, 3], "'|'")),
    ("commas in texts", "t.csv", "text|label, why\na, b|x\n", {"label_key": "label, why"},
     Read([("a, b", "x")])),
    ("another separator", "t.csv", "text~label\na, b~x\nc; d~y\n", {"separator": "~"}, Read(AB)),
    ("another separator that nobody names", "t.csv", "text~label\na~x\n", {},
     refused("'text~label', has no comma", "--separator")),
    ("a wrong separator", "t.csv", "text;label\na;x\n", {"separator": ","},
     refused("'text;label', is one column: leave --separator out")),
    ("sep=;", "t.csv", "sep=;\r\ntext;label\r\na, b;x\r\n\"c; d\";y\r\n", {}, Read(AB, [3, 4])),
    ("sep=, in quotes", "t.csv", '"sep=,"\ntext,label\n"a, b",x\nc; d,y\n', {}, Read(AB, [3, 4])),
    ("SEP=tab", "t.csv", "SEP=\t\ntext\tlabel\na, b\tx\nc; d\ty\n", {}, Read(AB, [3, 4], "tab")),
    ("a wrong name under semicolons", "t.csv", "txt;label\na, b;x\n", {},
     refused("did you mean 'txt'? Valid: label, txt")),
    ("other names under semicolons", "t.csv", "id;utterance, long;intent\n1;a;x\n", {},
     refused("Valid: id, intent, utterance, long", "--header false")),
    # No header
    ("no header", "t.csv", '"a, b",x\nc; d,y\n', COLUMNS, Read(AB, [1, 2], "no header")),
    ("no header, semicolons", "t.csv", 'a, b;x\n"c; d";y\n', COLUMNS, Read(AB, [1, 2], "';'")),
    ("no header, tabs", "t.tsv", "a, b\tx\nc; d\ty\n", COLUMNS, Read(AB, [1, 2])),
    ("no header, the label first", "t.csv", 'x,"a, b"\ny,c; d\n',
     COLUMNS | {"input_key": "2", "label_key": "1"}, Read(AB)),
    ("no header and no names", "t.csv", "a,x\nb,y\n", {"header": False},
     refused("without a header they are called 1 to 2", "--input-key")),
    ("no header, in doubt", "t.csv", "a;b|x\nc;d|y\n", COLUMNS, refused("--separator")),
    ("no header, one ragged row", "t.csv", "a,x\nb,y\nc,d,y\ne,x\n", COLUMNS,
     Read([("a", "x"), ("b", "y"), ("e", "x")], [1, 2, 4], "", ["line 3: 3 fields, but most"])),
    ("a first row taken for a header", "t.csv", "good film,pos\nbad film,neg\n", {},
     refused("no column 'text'", "--header false")),
    # Ends of lines, blank lines, spaces
    ("\\r\\r\\n", "t.csv", "text,label\r\r\na,x\r\r\nb,y\r\r\n", {},
     Read([("a", "x"), ("b", "y")], [2, 3])),
    ("\\r\\r\\n in a .tsv", "t.tsv", "text\tlabel\r\r\na\tx\r\r\nb\ty\r\r\n", {},
     Read([("a", "x"), ("b", "y")], [2, 3])),
    ("\\r\\r\\n in JSON Lines", "t.jsonl", '{"text":"a","label":"x"}\r\r\n' * 2, {},
     Read([("a", "x")] * 2, [1, 2])),
    ("blank lines", "t.csv", "\n\ntext,label\n\na,x\n\n  \nb,y\n\n", {},
     Read([("a", "x"), ("b", "y")], [5, 8])),
    ("blank lines in a .tsv", "t.tsv", "text\tlabel\n\na\tx\n\nb\ty\n", {},
     Read([("a", "x"), ("b", "y")], [3, 5])),
    ("blank lines in JSON Lines", "t.jsonl", '\n{"text":"a","label":"x"}\n\n \n', {},
     Read([("a", "x")], [2])),
    ("a space after the comma", "t.csv", 'text, label\n"a, b", x\nc; d, "y"\n', {},
     Read(AB, [2, 3], "spaces")),
    ("spaces before quotes", "t.csv", '"label", "text"\n"x", "a, b"\n"y", "c; d"\n', {}, Read(AB)),
    ("spaces before quotes of rows", "t.csv", 'label,text\nx, "a, b"\ny, "c; d"\n', {}, Read(AB)),
    ("spaces within texts", "t.csv", 'label,text\nx,"a, "\ny, c\nz," ""d"", e"\n', {},
     Read([("a, ", "x"), (" c", "y"), (' "d", e', "z")])),
    # Quotes
    ("TSV of pandas", "t.tsv", 'text\tlabel\n"say ""hi"""\tx\n"a\tb"\ty\n', {},
     Read([('say "hi"', "x"), ("a\tb", "y")], [2, 3], "quoted texts")),
    ("TSV of Excel", "t.tsv", 'text\tlabel\r\n"a, b"\tx\r\nc; d\ty\r\n', {},
     Read(AB, [2, 3], "quoted texts")),
    ("quotations and commas in a TSV", "t.tsv", 'text\tlabel\n"a, b"\tx\nc, d\ty\n', {},
     Read([('"a, b"', "x"), ("c, d", "y")])),
    ("TSV of R", "t.tsv", '"text"\t"label"\n"a, b"\t"x"\n"c; d"\t"y"\n', {}, Read(AB, [2, 3])),
    ("TSV of R with row names", "t.tsv", '"text"\t"label"\n"1"\t"a, b"\t"x"\n"7"\t"c; d"\t"y"\n',
     {}, Read(AB, [2, 3])),
    ("TSV of R with quotes", "t.tsv", '"text"\t"label"\n"say \\"a\\""\t"x"\n"C:\\new"\t"y"\n', {},
     Read([('say "a"', "x"), ("C:\\new", "y")], None, 'escaped as \\"')),
    ("CSV with escaped quotes", "t.csv", 'text,label\n"say \\"a, b\\"",x\nc; d,y\n', {},
     Read([('say "a, b"', "x"), ("c; d", "y")], [2, 3])),
    ("a text in quotes in a TSV", "t.tsv", 'text\tlabel\n"a"\tx\n"b\ty\n', {},
     Read([('"a"', "x"), ('"b', "y")])),
    ("an unclosed quote", "t.csv", 'text;label\na;x\n"b;y\nc;x\n', {},
     refused("t.csv, line 3: not valid CSV")),
    ("an unclosed quote in the TSV of R", "t.tsv", '"text"\t"label"\n"a\t"x"\n', {},
     refused("t.tsv, line 2: not valid CSV")),
    # Bad rows and headers, in any dialect
    ("ragged rows", "t.csv", "text;label\na;x\nb;c;y\nd\ne;y\n", {},
     Read([("a", "x"), ("e", "y")], [2, 5], "", ["line 3: 3 fields", "line 4: 1 fields"])),
    ("commas in unquoted texts", "t.csv", "text,label\na,x\nno, not 1, x\n1984, b,y\n", {},
     Read([("a", "x")], [2], "", ["line 3: 3 fields", "line 4: 3 fields"])),
    ("NUL", "t.csv", "sep=;\ntext;label\na\0;x\nb;y\n", {},
     Read([("b", "y")], [4], "", ["line 3: holds a NUL"])),
    ("a header twice", "t.csv", "text;text;label\na;b;x\n", {},
     refused("2 columns called 'text'")),
    ("a header twice, with spaces", "t.csv", "text, label,label\na,x,y\n", {},
     refused("2 columns called 'label'")),
    ("a key twice", "t.jsonl", '{"text":"a","text":"b","label":"x"}\n{"text":"c","label":"y"}', {},
     Read([("c", "y")], [2], "", ["line 1: the key 'text' comes twice"])),
    ("a header of empty names", "t.csv", ",,\na,b,c\n", {}, refused("no column 'text'")),
    ("a spreadsheet", "t.csv", b"PK\x03\x04\0\0", {}, refused("a spreadsheet", "as CSV")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_a_table_is_read_as_it_is_meant_or_refused(tmp_path: Path, case: Case) -> None:
    check(case, tmp_path)
