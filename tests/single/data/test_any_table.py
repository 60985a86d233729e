"""Any table that is written is read back, and no damage to one makes anything but a UserError."""

import csv
import io
import json
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.data.bad import BadExamples
from app.data.sources.tables import read_table
from app.errors import UserError
from tests.single.data.reading import HEADER, message_of, read, rows

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
        assert len(table.inputs) == len(table.labels[0].names) == len(table.lines) > 0
        assert table.lines == sorted(set(table.lines))
        "".join(table.inputs + table.labels[0].names).encode()


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
