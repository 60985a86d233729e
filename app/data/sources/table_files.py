"""From the bytes of a table to its lines of text: which suffixes there are, gzip, the encoding.

Nothing is guessed: a file is UTF-8 unless the user names another encoding, and a file that is
clearly something else is refused, with advice on what to do.
"""

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TextIO, cast

from app.errors import UserError

DELIMITED = (".csv", ".tsv")
JSON = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet",)
SUFFIXES = (*DELIMITED, *JSON, *PARQUET)
GZIP = ".gz"  # may follow any of them but Parquet, which is compressed inside

# UTF-32 first: in little-endian order its mark begins with that of UTF-16.
_OTHER_MARKS = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
_GZIP_MARK = b"\x1f\x8b"
_ARCHIVES = {b"PK\x03\x04": "a zip archive or a spreadsheet", b"\xd0\xcf\x11\xe0": "a spreadsheet"}
UTF_8 = "utf-8"
BYTES_AT_ONCE = 1 << 20


class RowError(Exception):
    """What is wrong with one row."""


def table_suffix(path: Path) -> str | None:
    """Which of `SUFFIXES` a name ends with, before a `.gz`; None if it is not a table."""
    name = path.name.lower()
    bare = name.removesuffix(GZIP)
    found = next((suffix for suffix in SUFFIXES if bare.endswith(suffix)), None)
    return None if found in PARQUET and bare != name else found


def place(path: Path, line: int) -> str:
    """A file and the line of it, or the row of a Parquet file, for a message."""
    return f"{path}, {'row' if table_suffix(path) in PARQUET else 'line'} {line}"


def table_name(path: Path) -> str:
    """The name of the file without its suffixes."""
    suffix = table_suffix(path) or ""
    bare = path.name[: -len(GZIP)] if path.name.lower().endswith(GZIP) else path.name
    return bare[: len(bare) - len(suffix)]


def check_file(path: Path) -> None:
    """Raise UserError unless this is a file."""
    if not path.is_file():  # a pipe, for one, could block for ever
        if path.exists():
            what = "it is a folder" if path.is_dir() else "it is not a file"
            raise UserError(f"{path} cannot be read: {what}")
        raise UserError(f"no file {path}")


@contextlib.contextmanager
def open_text(path: Path, encoding: str, newline: str) -> Iterator[TextIO]:
    """A table or a file of texts, unpacked if it is gzip, as text that can be read again from its
    start; what cannot be decoded becomes surrogates U+DC80 to U+DCFF where it can.

    Args:
        encoding: a codec of Python's; "utf-8" skips a byte order mark.
        newline: as for `open`.

    Raises:
        UserError: there is no such file, it is empty, damaged, or clearly in another encoding.
    """
    try:
        check_file(path)
        with _open_bytes(path) as binary:
            _check_encoding(path, binary, encoding)
            binary.seek(0)
            codec = "utf-8-sig" if encoding == UTF_8 else encoding
            with io.TextIOWrapper(binary, codec, "surrogateescape", newline) as file:
                yield file
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {_line_of(path, encoding)}: not {encoding} text ({error.reason})"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is a damaged gzip file: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def lines_of(file: TextIO) -> Iterator[str]:
    """The lines of a file opened with newline="", from its start, ends included.

    `\\r\\r\\n`, which a program for Windows writes that ends lines twice, is one end of a line.
    """
    file.seek(0)
    kept = next(file, "").removeprefix("\ufeff")  # codecs that name their byte order keep the mark
    for line in file:
        if line == "\r\n" and kept.endswith("\r"):
            kept += line
        else:
            yield kept
            kept = line
    if kept:
        yield kept


def is_utf_8(chunks: Iterable[bytes]) -> bool:
    """Whether bytes are valid UTF-8 and not ASCII alone."""
    decoder, ascii_only = codecs.getincrementaldecoder("utf-8")(), True
    try:
        for chunk in chunks:
            decoder.decode(chunk)
            ascii_only = ascii_only and chunk.isascii()
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return not ascii_only


def encoding_of(path: Path, encoding: str) -> str:
    """`encoding`, or "utf-8" if the file is that and not ASCII alone; for files whose
    encoding nobody has named."""
    if encoding == UTF_8 or not path.is_file():
        return UTF_8
    try:
        with _open_bytes(path) as file:
            return UTF_8 if is_utf_8(_chunks(file)) else encoding
    except (OSError, EOFError, zlib.error):  # said when it is read
        return encoding


def _open_bytes(path: Path) -> IO[bytes]:
    """The file, unpacked if its first bytes are those of gzip, whatever its name is."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MARK
    return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(BYTES_AT_ONCE), b"")


def _check_encoding(path: Path, file: IO[bytes], encoding: str) -> None:
    start = file.read(4)
    if not start:
        raise UserError(f"{path} is empty")
    for mark, what in _ARCHIVES.items():
        if start.startswith(mark):
            raise UserError(f"{path} is {what}, not text: unpack it, or save the sheet as CSV")
    family = encoding.upper()[:6]
    for name, marks in _OTHER_MARKS.items():
        if start.startswith(marks) and family != name:
            raise UserError(
                f"{path} is not {encoding.upper()} text but {name}: convert it to UTF-8, for "
                f"example with: iconv -f {name} -t UTF-8 {path.name} > utf8{path.suffix}; or train "
                f"with --encoding {name.lower()}"
            )
    if encoding != UTF_8:
        file.seek(0)
        if is_utf_8(_chunks(file)):  # chance makes no such file, but a wrong flag does
            raise UserError(f"{path} is UTF-8 text and not {encoding}: leave --encoding out")


def _line_of(path: Path, encoding: str) -> int:
    """The line of the first bytes that are not in this encoding."""
    with _open_bytes(path) as file:
        content = file.read()
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        return content[: error.start].decode(encoding, "replace").count("\n") + 1
    return 1


def check_characters(text: str, encoding: str = UTF_8) -> None:
    """Raise RowError for a NUL character or for bytes that are not text in this encoding."""
    if "\0" in text:
        raise RowError("holds a NUL character, as binary data or UTF-16 does: expected UTF-8 text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        # "surrogateescape" reads byte 0xNN as U+DCNN; other surrogates are escapes in JSON.
        if not 0xDC80 <= code <= 0xDCFF:
            raise RowError(f"not UTF-8 text (\\u{code:04x} is half a character)") from None
        what = (
            f"not {encoding.upper()} text (byte 0x{code - 0xDC00:02x}): convert the file to UTF-8"
        )
        if encoding == UTF_8:
            what += (
                ", with: iconv -f cp1252 -t UTF-8 if it comes from Windows or Excel; or train with "
                "--encoding cp1252"
            )
        raise RowError(what) from None
