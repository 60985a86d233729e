"""Tables as people have them: each case is a small file, what the user says of it, and what must
come of it. Further cases are further lines of CASES."""

import gzip
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from app.__main__ import main
from app.config import Data
from app.data.bad import BadExamples
from app.data.catalogue import load_dataset, read_dataset
from app.data.examples import Dataset
from app.errors import UserError

Content = str | bytes


@dataclass(frozen=True)
class Read:
    """Rows (text, label) that are read; `lines`: where they begin; `about`: what is said of how
    the file was read; `bad`: what is said of each row that on_bad = "skip" leaves out."""

    rows: list[tuple[str, str]]
    lines: list[int] | None = None
    about: str = ""
    bad: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Refused:
    """One error, which holds all of these."""

    parts: tuple[str, ...]


def refused(*parts: str) -> Refused:
    return Refused(parts)


def parquet(**columns: list) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


AB = [("a, b", "x"), ("c; d", "y")]
LINES = "".join(f"text {n},{'no' if n % 2 else 'yue'}\n" for n in range(4))
COLUMNS: dict[str, Any] = {"input_key": "1", "label_key": "2", "header": False}
JOINED: dict[str, Any] = {"input_key": "title,body"}

# name, file, content, keys of [data], right outcome
CASES: list[tuple[str, str, Content, dict[str, Any], Read | Refused]] = [
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
    # Encodings
    ("cp1252", "t.csv", "text;label\ncafé – €;x\n".encode("cp1252"), {"encoding": "cp1252"},
     Read([("café – €", "x")], [2], "encoding cp1252")),
    ("cp1252 that nobody names", "t.csv", "text,label\ncaf\xe9,x\nb,y\n".encode("cp1252"), {},
     Read([("b", "y")], [3], "", ["(byte 0xe9): convert the file to UTF-8, with: iconv"])),
    ("a header in cp1252", "t.csv", "t\xe9xt,label\na,x\n".encode("cp1252"), {},
     refused("line 1 (the header): not UTF-8", "iconv -f cp1252", "--encoding cp1252")),
    ("a byte that cp1252 lacks", "t.csv", b"text,label\na\x81,x\nb\xe9,y\n", {"encoding": "cp1252"},
     Read([("bé", "y")], [3], "", ["line 2: not CP1252 text (byte 0x81)"])),
    ("UTF-8 that is called cp1252", "t.csv", "text,label\ncafé,x\n", {"encoding": "cp1252"},
     refused("is UTF-8 text and not cp1252: leave --encoding out")),
    ("UTF-16", "t.csv", "text,label\nб,x\n".encode("utf-16"), {"encoding": "utf-16"},
     Read([("б", "x")], [2])),
    ("UTF-16 that nobody names", "t.csv", "text,label\na,x\n".encode("utf-16"), {},
     refused("is not UTF-8 text but UTF-16", "iconv", "--encoding utf-16")),
    ("UTF-16 of a known order", "t.tsv", "\ufefftext\tlabel\nб\tx\n".encode("utf-16-le"),
     {"encoding": "utf-16-le"}, Read([("б", "x")], [2])),
    ("Chinese", "t.csv", "text,label\n你好,x\n再见,y\n".encode("gb18030"), {"encoding": "gb18030"},
     Read([("你好", "x"), ("再见", "y")])),
    ("Japanese JSON", "t.jsonl", '{"text":"表","label":"x"}\n'.encode("shift_jis"),
     {"encoding": "shift_jis"}, Read([("表", "x")])),
    ("half a character of UTF-16", "t.csv", "text,label\na,x\n".encode("utf-16") + b"a",
     {"encoding": "utf-16"}, refused("t.csv, line 3: not utf-16 text")),
    # Packed files and other formats
    (".csv.gz", "t.csv.gz", gzip.compress(b'text;label\na, b;x\n"c; d";y\n'), {}, Read(AB, [2, 3])),
    (".jsonl.gz", "t.jsonl.gz", gzip.compress(b'{"text":"a","label":"x"}\n'), {},
     Read([("a", "x")], [1])),
    (".csv that is gzip", "t.csv", gzip.compress(b"text,label\na,x\n"), {}, Read([("a", "x")])),
    ("half of a gzip file", "t.tsv.gz", gzip.compress(b"text\tlabel\n" + b"a\tx\n" * 9)[:-9], {},
     refused("damaged gzip")),
    ("a JSON array", "t.json", json.dumps([{"text": t, "label": n} for t, n in AB]), {},
     Read(AB, [1, 1], "a JSON array")),
    ("a JSON array on many lines", "t.json",
     '[\n {"text": "a, b",\n  "label": "x"},\n {"text": "c; d", "label": "y"}\n]\n', {},
     Read(AB, [2, 4])),
    ("a JSON array called .jsonl", "t.jsonl", '[{"text": "a", "label": 1}]', {},
     Read([("a", "1")])),
    ("JSON Lines called .json", "t.json", '{"text": "a", "label": "x"}\n', {}, Read([("a", "x")])),
    ("a bad element", "t.json", '[\n{"text": "a", "label": "x"},\n{"text": 5, "label": "x"}\n]', {},
     Read([("a", "x")], [2], "", ["line 3: 'text' must be a string; got int"])),
    ("a broken array", "t.json", '[\n{"text": "a", "label": "x"}\n{"text": "b"}]', {},
     refused("line 3: not a valid JSON array: Expecting ','")),
    ("Parquet", "t.parquet", parquet(text=["a, b", "c; d"], label=["x", "y"]), {},
     Read(AB, [1, 2], "Parquet")),
    ("Parquet with numbers", "t.parquet", parquet(text=["a", "b"], label=[1.0, 0.0]), {},
     Read([("a", "1"), ("b", "0")])),
    ("Parquet without a value", "t.parquet", parquet(text=["a", None, "c"], label=["x", "y", None]),
     {}, Read([("a", "x")], [1], "", ["row 2: 'text' must be a string; got null", "row 3: 'lab"])),
    ("Parquet with another name", "t.parquet", parquet(txt=["a"], label=["x"]), {},
     refused("did you mean 'txt'?")),
    ("half of a Parquet file", "t.parquet", parquet(text=["a"], label=["x"])[:-8], {},
     refused("cannot be read as Parquet")),
    # Several columns of text
    ("two columns", "t.csv", "title,body,label\na,b,x\nc,,y\n", JOINED,
     Read([("a b", "x"), ("c", "y")], [2, 3], "title and body joined by a space")),
    ("two keys of JSON", "t.jsonl", '{"title":"a","body":null,"label":"x"}\n'
     '{"title":"c","body":"d","label":"y"}\n', JOINED, Read([("a", "x"), ("c d", "y")])),
    ("two columns of Parquet", "t.parquet", parquet(body=["b"], label=[1], title=["a"]), JOINED,
     Read([("a b", "1")])),
    ("two columns, both empty", "t.csv", "title;body;label\n; ;x\na;b;y\n", JOINED,
     Read([("a b", "y")], [3], "", ["line 2: columns 'title', 'body' are empty"])),
    ("a column whose name has a comma", "t.csv", '"title,body";label\na;x\n', JOINED,
     Read([("a", "x")])),
    ("a second column that is not there", "t.csv", "title,text,label\na,b,x\n", JOINED,
     refused("no column 'body'")),
    ("two columns without a header", "t.csv", "x,a,b\ny,c,d\n",
     {"header": False, "input_key": "2,3", "label_key": "1"}, Read([("a b", "x"), ("c d", "y")])),
    # Labels: names or numbers, by the column
    ("nan, NA, 1e5, 007, no and yue are names among names", "t.csv",
     "text,label\na,nan\nb,NA\nc,1e5\nd,007\ne,no\nf,yue\ng,1.0\nh,0.5\n", {},
     Read([("a", "nan"), ("b", "NA"), ("c", "1e5"), ("d", "007"), ("e", "no"), ("f", "yue"),
           ("g", "1.0"), ("h", "0.5")], None, "'nan' is a class by its name")),
    ("floats throughout", "t.csv", "text,label\na,1.0\nb,0.0\nc,1.\n", {},
     Read([("a", "1"), ("b", "0"), ("c", "1")])),
    ("floats throughout, one missing", "t.csv", "text,label\na,1.0\nb,nan\nc,0.0\n", {},
     Read([("a", "1"), ("c", "0")], [2, 4], "", ["line 3: label nan says that there is none"])),
    ("NA among whole numbers", "t.tsv", "text\tlabel\na\t1\nb\tNA\nc\t2\n", {},
     Read([("a", "1"), ("c", "2")], [2, 4], "", ["line 3: label NA says that there is none"])),
    ("one number that is not whole", "t.csv", "text,label\na,1\nb,2.5\nc,3.0\n", {},
     Read([("a", "1"), ("c", "3")], [2, 4], "", ["line 3: label 2.5, but a class is a name or a"])),
    ("leading zeros", "t.csv", "text,label\na,007\nb,010\n", {},
     Read([("a", "007"), ("b", "010")])),
    ("leading zeros among floats", "t.csv", "text,label\na,01.0\nb,1.0\n", {},
     Read([("a", "01.0"), ("b", "1.0")])),
    ("numbers too large to be exact", "t.csv", "text,label\na,1e15\nb,1\n", {},
     Read([("b", "1")], [3], "", ["line 2: label 1e15, but a class is"])),
    ("numbers of JSON", "t.jsonl", '{"text":"a","label":1.0}\n{"text":"b","label":0}\n', {},
     Read([("a", "1"), ("b", "0")])),
    ("numbers among names in JSON", "t.jsonl", '{"text":"a","label":1e5}\n'
     '{"text":"b","label":"nan"}\n', {}, Read([("a", "1e5"), ("b", "nan")])),
    ("NaN in JSON", "t.jsonl", '{"text":"a","label":NaN}\n{"text":"b","label":"x"}\n', {},
     Read([("b", "x")], [2], "", ["line 1: label nan says that there is none"])),
]  # fmt: skip


def data_of(folder: Path, name: str, content: Content, **keys: Any) -> Data:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Data(dataset=str(folder / name), **keys)


def rows_of(dataset: Dataset, split: str = "train") -> list[tuple[str, str]]:
    source: Any = dataset.splits[split]
    names = [dataset.class_names[label] for label in source.labels]
    return list(zip(source.inputs.tolist(), names, strict=True))


@pytest.mark.parametrize(
    ("file", "content", "keys", "outcome"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_a_table_is_read_as_it_is_meant_or_refused(tmp_path, file, content, keys, outcome) -> None:
    data, bad = data_of(tmp_path, file, content, **keys), BadExamples("skip")
    if isinstance(outcome, Refused):
        with pytest.raises(UserError) as caught:
            read_dataset(data, bad)
        assert len(str(caught.value).splitlines()) == 1
        for part in (file, *outcome.parts):
            assert part in str(caught.value)
        return
    dataset = read_dataset(data, bad)
    assert rows_of(dataset) == outcome.rows
    places = [dataset.train.where(row).rpartition(" ")[2] for row in range(len(outcome.rows))]
    assert outcome.lines is None or places == list(map(str, outcome.lines))
    assert outcome.about in dataset.notes[0]
    assert len(bad.found) == len(outcome.bad)
    for one, part in zip(bad.found, outcome.bad, strict=True):
        assert part in f"{one.where.partition(', ')[2]}: {one.reason}"
    if outcome.bad:  # the first is the error under the other policy
        with pytest.raises(UserError, match="--on-bad skip"):
            read_dataset(data, BadExamples("error"))


def test_a_label_of_the_test_file_that_training_lacks_is_left_out_by_skip(tmp_path: Path) -> None:
    data_of(tmp_path, "test.tsv", "text\tlabel\nc\tx\nd\tnew\n")
    data = data_of(tmp_path, "train.csv", "text,label\na,x\nb,y\n", test=str(tmp_path / "test.tsv"))
    bad = BadExamples("skip")
    assert rows_of(read_dataset(data, bad), "test") == [("c", "x")]
    assert [one.where.rpartition(" ")[2] for one in bad.found] == ["3"]
    assert "label 'new' does not occur in the training file" in bad.found[0].reason
    with pytest.raises(UserError, match=r"test.tsv, line 3: label 'new'.*--on-bad skip"):
        read_dataset(data, BadExamples("error"))


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (["1.0", "0.0"], ["1", "0"], ["1", "0"]),
        (["1", "0"], ["0.0", "1.0"], ["0", "1"]),
        (["1.0", "x"], ["1.0", "1.0"], ["1.0", "1.0"]),  # alone they would be numbers
    ],
)
def test_the_training_file_says_whether_labels_of_others_are_numbers(
    tmp_path: Path, train: list[str], test: list[str], expected: list[str]
) -> None:
    write = "text,label\n{}\n".format
    data_of(tmp_path, "test.csv", write("\n".join(f"t {one},{one}" for one in test)))
    content = write("\n".join(f"a {one},{one}" for one in train))
    data = data_of(tmp_path, "train.csv", content, test=str(tmp_path / "test.csv"))
    dataset = read_dataset(data, BadExamples())
    assert [label for _, label in rows_of(dataset, "test")] == expected


def test_what_was_skipped_is_said_before_the_error_that_follows(tmp_path: Path, capsys) -> None:
    rows = "".join(f"t {n},yue\n,no\n" for n in range(8))
    data = data_of(tmp_path, "t.csv", "text,label\n" + rows)
    with pytest.raises(UserError) as caught:
        bad = BadExamples("skip")
        with bad.shown_before_errors():
            load_dataset(data, 0, bad)
    message = str(caught.value)
    assert message.index("line 3: column 'text' is empty, and 7 more") < message.index("'yue'")

    assert main(["data", data.dataset]) == 2
    out, err = capsys.readouterr()
    assert "problems found: 8" in out and "line 17: column 'text' is empty" in out
    assert "line 3: column 'text' is empty" in err and "have the label 'yue'" in err


def test_a_file_that_breaks_off_tells_its_bad_rows_first(tmp_path: Path) -> None:
    data = data_of(tmp_path, "t.csv", 'text,label\n,x\n"a,x\n')
    with pytest.raises(UserError, match="line 2: column 'text' is empty"):
        read_dataset(data, BadExamples("error"))
    bad = BadExamples("skip")
    with (
        pytest.raises(UserError, match="line 2: .*line 3: not valid CSV"),
        bad.shown_before_errors(),
    ):
        read_dataset(data, bad)


@pytest.mark.parametrize("broken", ["all", "test"])
def test_data_lists_images_none_of_which_decodes(tmp_path: Path, capsys, broken: str) -> None:
    from PIL import Image

    splits = ["train", "test"] if broken == "test" else [""]
    for split in splits:
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                if split == "train":
                    Image.new("L", (8, 8), number).save(folder / f"{number}.jpg")
                else:
                    (folder / f"{number}.jpg").write_text("<html>")
    arguments = ["data", str(tmp_path / "photos"), "--validation", "0"]
    assert main(arguments + (["--test", "0.4"] if broken == "all" else [])) == 2
    out, err = capsys.readouterr()
    assert "problems found: 6" in out and "dog/2.jpg: not an image" in out
    assert err.startswith("error: ") and "no good example is left for" in err


def test_keys_of_tables_are_refused_where_they_mean_nothing(tmp_path: Path) -> None:
    lines = data_of(tmp_path, "t.jsonl", '{"text":"a","label":"x"}\n', header=False)
    with pytest.raises(UserError, match="header is for tables such as .csv"):
        read_dataset(lines, BadExamples())
    with pytest.raises(UserError, match="separator = ';' is for a table, and digits is none"):
        read_dataset(Data(dataset="digits", separator=";"), BadExamples())


def test_data_shows_how_a_table_was_read(tmp_path: Path, capsys) -> None:
    rows = "".join(f"t {n};b;{'x' if n % 2 else 'y'}\n" for n in range(20))
    data = data_of(tmp_path, "t.csv", "title;body;label\n" + rows)
    assert main(["data", data.dataset, "--input-key", "title,body"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "t.csv: separator ';', encoding utf-8, title and body joined by a space"
    samples = out[out.index("samples of the training split") + 1 :][:5]
    assert all(line.startswith(("  x: t ", "  y: t ")) and line.endswith(" b") for line in samples)
