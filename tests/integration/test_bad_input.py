"""Each bad input: the message under on_bad = "error", what "skip" leaves out, and what neither
passes over."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.bad_input import (
    MEND,
    ROWS,
    csv_of,
    jsonl_of,
    load_keys,
    message_of,
    picture,
)


def sixteen_bits() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(144, dtype=np.uint16).reshape(12, 12)).save(file, "PNG")
    return file.getvalue()


def frames(file_format: str) -> bytes:
    rest = [Image.open(io.BytesIO(picture(shade))) for shade in (8, 9)]
    return picture(7, "RGB", file_format, save_all=True, append_images=rest)


IMAGES = {
    "zero bytes": ("new.png", b"", "zero bytes"),
    "not an image": ("new.jpg", b"<html>404</html>", "not an image that TensorFlow reads"),
    "cut off in the header": ("new.png", picture(99)[:20], "truncated or damaged PNG"),
    "cut off png": ("new.png", picture(99)[:-40], "truncated or damaged PNG"),
    "cut off jpeg": ("new.jpg", picture(99, "RGB", "JPEG")[:-40], "truncated or damaged JPEG"),
    "cmyk": ("new.jpg", picture(99, "CMYK", "JPEG"), "(CMYK): convert it to RGB"),
    "16 bits": ("new.png", sixteen_bits(), "16 bits a channel: convert it to 8"),
    "animated gif": ("new.gif", frames("GIF"), "animated, 3 frames: take one frame out"),
    "animated webp": ("new.webp", frames("WEBP"), "animated, 3 frames: take one frame out"),
    "tiff": ("new.jpg", picture(99, "RGB", "TIFF"), "TIFF, which TensorFlow does not read"),
}


@pytest.mark.parametrize("hold", ["memory", "stream"])
@pytest.mark.parametrize(("name", "content", "reason"), IMAGES.values(), ids=IMAGES)
def test_a_bad_image_is_named_or_left_out(photos: Path, name, content, reason, hold) -> None:
    bad = photos / "cat" / name
    bad.write_bytes(content)
    message = message_of(photos, hold=hold)
    assert message.startswith(f"{bad}: ")
    assert reason in message
    assert message.endswith(MEND)
    data = load_keys(photos, "skip", hold=hold)
    assert [one.where for one in data.bad] == [str(bad)]
    assert reason in data.bad[0].reason
    assert sum(map(len, data.splits.values())) == 40


def test_images_of_other_formats_are_counted_by_class_in_the_plan_of_a_run(photos: Path) -> None:
    for number in range(9):  # more than a twentieth, and still skipped: their names say it
        (photos / "cat" / f"IMG_{number}.HEIC").write_bytes(b"heic")
    where = f"{photos}/cat: "
    reason = "9 of 29 images of this class cannot be read: 9 .heic, which TensorFlow does not read"
    assert message_of(photos).startswith(where + reason)
    (photos / "dog" / "@eaDir").mkdir()
    (photos / "dog" / "@eaDir" / "1.png").write_bytes(picture(1))
    data = load_keys(photos, "skip")
    assert sum(map(len, data.splits.values())) == 40
    lines = [line.strip() for line in data.notes["left out"].strip().split("\n")]
    assert len(lines) == 2
    assert lines[0].startswith(where + reason)
    assert lines[1] == f"{photos}: hidden or system files and folders, skipped: 1 @eaDir"


def test_a_class_without_images_and_a_link_to_nothing_are_named_or_left_out(photos: Path) -> None:
    (photos / "emu").mkdir()
    assert message_of(photos).startswith(f"{photos}/emu: no image in this class folder")
    os.symlink("nowhere.png", photos / "cat" / "link.png")
    assert "link.png: not a file: a symbolic link to nothing" in message_of(photos)
    data = load_keys(photos, "skip")
    assert sorted(one.where for one in data.bad) == [f"{photos}/cat/link.png", f"{photos}/emu"]
    assert data.dataset.class_names == ("cat", "dog")


TABLES = {
    "bytes that are not UTF-8": (".csv", b"caf\xe9,yes", "not UTF-8 text (byte 0xe9)"),
    "an empty text": (".csv", b",yes", "column 'text' is empty"),
    "an empty label": (".csv", b"words,", "column 'label' is empty"),
    "too many fields": (".csv", b"one, two,yes", "3 fields, but the header has 2"),
    "a NUL": (".csv", b"wo\0rds,yes", "holds a NUL character"),
    "NaN in JSON": (".jsonl", b'{"text": "a", "label": NaN}', "marks a missing value"),
    "infinity in JSON": (".jsonl", b'{"text": "a", "label": Infinity}', "label inf is not a class"),
    "half a line of JSON": (".jsonl", b'{"text": "a", "lab', "not valid JSON"),
    "a list": (".jsonl", b'["a", "yes"]', "expected an object"),
    "no text": (".jsonl", b'{"label": "yes"}', "no key 'text'"),
    "a number as text": (".jsonl", b'{"text": 3, "label": "yes"}', "'text' must be a string"),
}


@pytest.mark.parametrize(("suffix", "row", "reason"), TABLES.values(), ids=TABLES)
def test_a_bad_row_is_named_or_left_out(write, suffix: str, row: bytes, reason: str) -> None:
    start = csv_of() if suffix == ".csv" else jsonl_of()
    path = write(f"table{suffix}", start.encode() + row + b"\n")
    line = 42 if suffix == ".csv" else 41
    message = message_of(path)
    assert message.startswith(f"{path}, line {line}: ")
    assert reason in message
    assert message.endswith(MEND)
    data = load_keys(path, "skip")
    assert [one.where for one in data.bad] == [f"{path}, line {line}"]
    assert sum(map(len, data.splits.values())) == 40


HOPELESS = {
    "no bytes": ("t.csv", b"", "t.csv is empty"),
    "a header alone": ("t.csv", b"text,label\n", "t.csv has no rows"),
    "other columns": (
        "t.csv",
        b"sentence,class\na,b\n",
        "no column 'text': Valid: class, sentence",
    ),
    "UTF-16": ("t.csv", csv_of().encode("utf-16"), "not UTF-8 text but UTF-16: convert it"),
    "an open quote": ("t.csv", csv_of('"words,yes').encode(), "t.csv, line 42: not valid CSV"),
    "names that differ by case": (
        "t.csv",
        csv_of("words,Yes").encode(),
        "the classes 'yes' (line 2) and 'Yes' (line 42) differ only by case",
    ),
    "one class": (
        "t.csv",
        csv_of(rows=ROWS[:20]).encode(),
        "have the label 'yes': there is nothing to learn",
    ),
    "a path that leads out": (
        "image.csv",
        b"image,label\na.png,a\n../b.png,b\n",
        "image.csv, line 3: '../b.png' is outside",
    ),
    "an absolute path": (
        "image.jsonl",
        b'{"image": "/etc/hostname", "label": 1}\n',
        "image.jsonl, line 1: '/etc/hostname' is outside",
    ),
}


@pytest.mark.parametrize("on_bad", ["error", "skip"])
@pytest.mark.parametrize(("name", "content", "reason"), HOPELESS.values(), ids=HOPELESS)
def test_what_no_policy_passes_over(write, name, content: bytes, reason: str, on_bad: str) -> None:
    (write("b.png", picture(0)).parent / "data").mkdir()
    write("data/a.png", picture(1))
    message = message_of(write(f"data/{name}", content), on_bad)
    assert reason in message
    assert "--on-bad skip" not in message
    assert "\n" not in message


def test_folders_that_no_policy_passes_over(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(0))
    (tmp_path / "one" / "cat").mkdir(parents=True)
    for number in range(12):
        (tmp_path / "one" / "cat" / f"{number}.png").write_bytes(picture(number))
    for on_bad in ("error", "skip"):
        assert "have the label 'cat': there is nothing" in message_of(tmp_path / "one", on_bad)
        assert "no images in" in message_of(tmp_path / "one" / "cat", on_bad)
    os.symlink(tmp_path / "secret.png", photos / "cat" / "link.png")
    assert "nothing outside the given directory is read" in message_of(photos, "skip")
    (photos / "cat" / "link.png").unlink()
    (photos / "Cat").mkdir()
    (photos / "Cat" / "1.png").write_bytes(picture(1))
    assert "the classes 'Cat' and 'cat' differ only by case" in message_of(photos, "skip")


def test_marks_long_texts_and_quotes_over_lines_are_no_problem(write) -> None:
    rows = ['"one\r\ntwo ""three""",yes', f"{'long ' * 200_000},no", f"{'x' * 1_000_000},no"]
    data = load_keys(write("t.csv", "\ufeff" + csv_of(*rows)), validation=0)
    assert data.bad == []
    assert sum(map(len, data.splits.values())) == 43
    assert data.notes["cut"].startswith("1 texts longer than 256 tokens")
    assert {"two", "three"} & set(data.plan.tokenizer["vocabulary"])


def test_more_bad_examples_than_a_twentieth_are_refused(write) -> None:
    two = load_keys(write("two.csv", csv_of(",yes", ",no")), "skip")
    assert len(two.bad) == 2  # of 42
    message = message_of(write("three.csv", csv_of(",yes", ",no", ",no")), "skip")
    assert message.startswith("3 of 43 examples are bad, more than the 5% that --on-bad skip")
    assert "three.csv, line 42: column 'text' is empty" in message


def test_bad_examples_of_all_splits_are_counted_together(photos: Path, tmp_path: Path) -> None:
    rows = [
        f"photos/{path.parent.name}/{path.name},{path.parent.name}"
        for path in sorted(photos.glob("*/*.png"))
    ]
    listing = tmp_path / "image.csv"
    listing.write_text("\n".join(["image,label", *rows, "photos/none.png,cat"]) + "\n")
    other = tmp_path / "other.csv"
    (tmp_path / "cut.png").write_bytes(picture(0)[:-40])
    other.write_text("\n".join(["image,label", *rows[:4], "cut.png,dog"]) + "\n")
    data = load_keys(listing, "skip", test=str(other))
    assert [(one.where, one.reason) for one in data.bad] == [
        (f"{listing}, line 42", f"no file 'photos/none.png' in {tmp_path}"),
        (f"{other}, line 6: {tmp_path}/cut.png", "truncated or damaged PNG"),
    ]
    assert len(data.splits["test"]) == 4
