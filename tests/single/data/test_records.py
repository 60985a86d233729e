"""TFRecord files: the index, reading by position, and what is damaged."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from app.data.sources import records
from app.data.sources.records import RecordFiles, index_files
from app.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lockstep" / "index"


def example(text: bytes, label: int, **more: bytes) -> bytes:
    feature = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for key, value in {"text": text, **more}.items()
    }
    feature["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def two_labels(text: bytes, label: int, other: int) -> bytes:
    record = tf.train.Example.FromString(example(text, label))
    record.features.feature["other"].int64_list.value.append(other)
    return record.SerializeToString()


def write(path: Path, serialized: list[bytes]) -> Path:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in serialized:
            writer.write(one)
    return path


def contents(file: int, rows: int) -> list[bytes]:
    return [f"file {file}, row {row}, ".encode() + bytes([row % 256]) * row for row in range(rows)]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files, of more records than are parsed at once and of three."""
    return [
        write(tmp_path / f"{n}.tfrecord", [example(c, i) for i, c in enumerate(contents(n, rows))])
        for n, rows in enumerate([1500, 3])
    ]


def index(files: list[Path]) -> RecordFiles:
    return index_files(files, "text", "label")


def message_of(files: list[Path]) -> str:
    with pytest.raises(UserError) as caught:
        index(files)
    return str(caught.value)


def test_every_record_is_found_and_read_in_any_order(files: list[Path]) -> None:
    found = index(files)
    everything = [*contents(0, 1500), *contents(1, 3)]
    assert len(found) == 1503
    assert found.labels.tolist() == [*range(1500), *range(3)]
    assert found.files_of.tolist() == [0] * 1500 + [1] * 3
    order = np.random.default_rng(0).permutation(1503)
    assert found.read(order) == [everything[row] for row in order]


def test_a_part_is_read_as_its_own_split(files: list[Path]) -> None:
    part = index(files).take(np.array([1501, 7]))
    assert part.read(np.array([1, 0])) == [contents(0, 8)[7], contents(1, 2)[1]]
    assert part.labels.tolist() == [1, 7]
    assert part.where(0).startswith(f"{files[1]}, byte ")


def test_an_input_that_occurs_in_another_feature_is_still_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [example(b"ab", 0, alpha=b"xxabyy", zeta=b"ab"), example(b"", 1)])
    assert index([path]).read(np.array([0, 1])) == [b"ab", b""]


def test_the_index_is_kept_and_made_anew_when_a_file_changes(
    files: list[Path], cache: Path, monkeypatch
) -> None:
    before = index(files)
    assert len(list(cache.glob("*.npz"))) == 2

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patched:
        patched.setattr(records, "_index_file", fail)
        assert index(files).read(np.array([5])) == before.read(np.array([5]))
    write(files[1], [example(b"new", 4)])
    assert index(files).labels.tolist() == [*range(1500), 4]


def test_half_an_index_in_the_cache_is_not_trusted(files: list[Path], cache: Path) -> None:
    index(files)
    for path in cache.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    assert len(index(files)) == 1503


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch) -> Path:
    """Makes all places of the cache ones that even root cannot write to; returns one."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(records, "_also", [])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    return tmp_path / "file"


def test_without_a_place_for_the_index_it_works_too_and_warns(
    files: list[Path], nowhere: Path, caplog
) -> None:
    assert len(index(files)) == len(index(files)) == 1503
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert len({record.getMessage() for record in caplog.records}) == 1  # for app/monitor/logs.py
    assert "XDG_CACHE_HOME" in caplog.text and str(nowhere) in caplog.text


@pytest.mark.parametrize("place", ["beside the run", "temporary"])
@pytest.mark.parametrize("home", ["file", "none"])
def test_the_index_is_kept_where_it_can_be_if_the_home_is_read_only(
    files: list[Path], nowhere: Path, tmp_path: Path, monkeypatch, place: str, home: str
) -> None:
    kept = tmp_path / "runs"
    if home == "none":
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setenv("HOME", "~")  # as for a user without one
    if place == "temporary":
        kept.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(kept))
    else:
        records.keep_also(kept)
    before = index(files)
    assert len(list(kept.glob(".lockstep/index/*.npz" if place != "temporary" else "*/*/*"))) == 2

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(records, "_index_file", fail)
    assert index(files).read(np.array([5])) == before.read(np.array([5]))


@pytest.mark.parametrize("kept", [5, 11, 20, 100, -1])
def test_a_file_that_is_cut_off_is_named_with_the_place(files: list[Path], kept: int) -> None:
    files[1].write_bytes(files[1].read_bytes()[:kept])
    assert message_of(files).startswith(f"{files[1]}, byte ")
    assert "damaged or cut off" in message_of(files)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [example(b"some text", 1)])
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        assert "damaged or cut off" in message_of([path])


def test_damage_after_indexing_is_noticed_when_it_is_read(files: list[Path]) -> None:
    found = index(files)
    content = bytearray(files[1].read_bytes())
    content[int(found.offset[1502])] ^= 1
    files[1].write_bytes(content)
    with pytest.raises(UserError, match=r"1\.tfrecord, byte \d+: the checksum is wrong"):
        found.read(np.array([1502]))
    files[1].unlink()
    with pytest.raises(UserError, match=r"1\.tfrecord cannot be read"):
        found.read(np.array([1502]))


def test_the_index_has_all_labels_that_are_asked_for_and_those_of_others_are_other_ones(
    files: list[Path], cache: Path
) -> None:
    files[0] = write(files[0], [two_labels(f"text {i}".encode(), i, -i) for i in range(3)])
    files[1] = write(files[1], [])
    assert index_files(files, "text", "label", "other").labels.tolist() == [
        [0, 0],
        [1, -1],
        [2, -2],
    ]
    assert index_files(files, "text", "other", "label").labels[2].tolist() == [-2, 2]
    assert index(files).labels.tolist() == [0, 1, 2]
    assert len(list(cache.glob("*.npz"))) == 2 * 3
    with pytest.raises(UserError, match="'label' and 'others' .int64."):
        index_files(files, "text", "label", "others")


def test_a_missing_feature_is_named(files: list[Path]) -> None:
    with pytest.raises(UserError, match="'image'"):
        index_files(files, "image", "label")
    assert "cannot be read" in message_of([*files, files[0].with_name("none")])


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert len(index([write(tmp_path / "empty", [])])) == 0


def test_the_fingerprint_follows_the_content(files: list[Path], tmp_path: Path) -> None:
    import hashlib

    def fingerprint(found: RecordFiles) -> str:
        digest = hashlib.blake2b()
        found.add_to(digest)
        return digest.hexdigest()

    moved = tmp_path / "moved"
    moved.write_bytes(files[0].read_bytes())
    whole = fingerprint(index(files))
    assert fingerprint(index([moved, files[1]])) == whole
    assert fingerprint(index(files).take(np.arange(1502))) != whole
    write(files[1], [example(c, 2 - i) for i, c in enumerate(contents(1, 3))])
    assert fingerprint(index(files)) != whole
