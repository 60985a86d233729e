"""Tables as people have them: each case is a small file, what the user says of it, and what must
come of it. A new case is one more line of `CASES`, here or in test_field_dialects.py."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from app.__main__ import main
from app.config import Data
from app.data.bad import BadExamples
from app.data.catalogue import load_dataset, read_dataset
from app.errors import UserError
from tests.single.data.field_tables import AB, Case, Read, check, data_of, refused, rows_of


def parquet(**columns: list) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


JOINED: dict[str, Any] = {"input_key": "title,body"}

CASES: list[Case] = [
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
     Read([("a", "1"), ("c", "0")], [2, 4], "", ["line 3: label nan marks a missing value"])),
    ("NA among whole numbers", "t.tsv", "text\tlabel\na\t1\nb\tNA\nc\t2\n", {},
     Read([("a", "1"), ("c", "2")], [2, 4], "", ["line 3: label NA marks a missing value"])),
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
     Read([("b", "x")], [2], "", ["line 1: label nan marks a missing value"])),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_a_table_is_read_as_it_is_meant_or_refused(tmp_path: Path, case: Case) -> None:
    check(case, tmp_path)


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
    with pytest.raises(UserError, match="separator = ';' is for tables, but digits is not one"):
        read_dataset(Data(dataset="digits", separator=";"), BadExamples())


def test_data_shows_how_a_table_was_read(tmp_path: Path, capsys) -> None:
    rows = "".join(f"t {n};b;{'x' if n % 2 else 'y'}\n" for n in range(20))
    data = data_of(tmp_path, "t.csv", "title;body;label\n" + rows)
    assert main(["data", data.dataset, "--input-key", "title,body"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "t.csv: separator ';', encoding utf-8, title and body joined by a space"
    samples = out[out.index("samples of the training split") + 1 :][:5]
    assert all(line.startswith(("  x: t ", "  y: t ")) and line.endswith(" b") for line in samples)
