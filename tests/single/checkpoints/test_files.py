"""The files of a checkpoint: damage is found wherever it is; what is left is used."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.checkpoints import checkpoint
from app.checkpoints.checkpoint import Checkpoints
from app.checkpoints.files import (
    Damaged,
    Score,
    read_files,
    read_score,
    write_files,
    write_score,
)
from app.checkpoints.snapshot import Snapshot
from app.errors import UserError
from app.rundir.files import list_checkpoints
from tests.single.checkpoints.killed_writer import snapshot_of

REPOSITORY = Path(__file__).resolve().parents[3]
FILES = ["SHA256SUMS", "score.json", "state.json", "state.safetensors"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A small checkpoint with a score."""
    directory = tmp_path_factory.mktemp("step-00000001")
    whole = snapshot_of(1)
    write_files(directory, Snapshot(1, {"a": whole.arrays["layer/0"][:50]}, whole.about))
    write_score(directory, Score(0.5, 0.75))
    return directory


def test_arrays_of_every_kind_come_back_to_the_bit(tmp_path) -> None:
    arrays = {
        "scalar": np.float32(3),
        "empty": np.zeros((0, 4), np.float16),
        "turned": np.arange(12, dtype=np.int64).reshape(3, 4).T,
        "flags": np.array([True, False]),
        "bytes": np.arange(5, dtype=np.uint8),
        "large": np.random.default_rng(0).normal(size=(3, 700_000)),
        "ü/名": np.array([-1], np.int8),
    }
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    write_files(tmp_path, Snapshot(1, arrays, snapshot_of(1).about))
    for found in (read_files(tmp_path).arrays, safetensors.numpy.load_file(tmp_path / FILES[3])):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert found[name].tobytes() == array.tobytes(), name


def test_sha256sum_reads_the_checksums(sound) -> None:
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=sound, capture_output=True)
    assert done.returncode == 0, done
    assert done.stdout.count(b": OK") == 3
    assert read_score(sound) == Score(0.5, 0.75)


SOME = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def damaged_copy(sound: Path, place: Path, name: str, content: bytes) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sound, place)
    (place / name).write_bytes(content)
    return place


@SOME
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_is_found_in_any_file(sound, tmp_path, name, where, bit) -> None:
    content = bytearray((sound / name).read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    with pytest.raises(Damaged):
        read_files(damaged_copy(sound, tmp_path / "copy", name, bytes(content)))


@SOME
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_is_found(sound, tmp_path, name, where) -> None:
    content = (sound / name).read_bytes()
    cut = content[: int(where * len(content))]
    # Without its last line, the checkpoint has no score, as before it was noted.
    assume(name != "SHA256SUMS" or cut != b"".join(content.splitlines(keepends=True)[:2]))
    with pytest.raises(Damaged):
        read_files(damaged_copy(sound, tmp_path / "copy", name, cut))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found_and_named(sound, tmp_path, name) -> None:
    copy = damaged_copy(sound, tmp_path / "copy", name, b"")
    (copy / name).unlink()
    with pytest.raises(Damaged, match=f"{name} cannot be read: No such file"):
        read_files(copy)


def test_the_format_before_checksums_of_all_files_is_refused(sound, tmp_path) -> None:
    meta = json.loads((sound / "state.json").read_bytes()) | {"format": 2, "sha256": "0"}
    copy = damaged_copy(sound, tmp_path / "copy", "state.json", json.dumps(meta).encode())
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="has format 2, but this code reads 3: use the version of"):
        read_files(copy)


def test_a_process_may_be_killed_at_any_moment(tmp_path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.single.checkpoints.killed_writer",
            str(tmp_path / "checkpoints"),
            "20",
        ],
        cwd=REPOSITORY,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20 kills, ") and done.stdout.endswith("left: []\n")


def test_one_that_was_set_aside_counts_until_its_place_is_taken(tmp_path, monkeypatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2):
        checkpoints.write(snapshot_of(step))
    rename = Path.rename

    def rename_or_end(old: Path, new: Path) -> None:
        if old.name.endswith(".partial"):
            raise KeyboardInterrupt
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_or_end)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.write(snapshot_of(2))
    aside = tmp_path / ".step-00000002.old"
    assert list_checkpoints(tmp_path) == [tmp_path / "step-00000001", aside]
    assert checkpoints.newest()[0] == aside
    path = checkpoints.write(snapshot_of(3))
    checkpoints.forget(path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["step-00000003"]


def test_one_that_is_removed_while_it_is_read_is_not_called_damaged(
    tmp_path, monkeypatch, caplog
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.write(snapshot_of(1))

    def read(path: Path):
        monkeypatch.setattr(checkpoint, "read_files", read_files)
        checkpoints.forget(checkpoints.write(snapshot_of(2)))  # the run goes on
        return read_files(path)

    monkeypatch.setattr(checkpoint, "read_files", read)
    path, content = checkpoints.newest()
    assert path == tmp_path / "step-00000002" and content.meta["step"] == 2
    assert not caplog.records


def test_the_best_may_change_while_it_is_read(tmp_path, monkeypatch) -> None:
    checkpoints = Checkpoints(tmp_path, 1, "accuracy")
    checkpoints.write(snapshot_of(1))
    checkpoints.score(1, Score(1.0, 0.5))

    def read(path: Path):
        monkeypatch.setattr(checkpoint, "read_files", read_files)
        newer = checkpoints.write(snapshot_of(2))
        checkpoints.score(2, Score(1.0, 0.6))
        checkpoints.forget(newer)
        return read_files(path)

    monkeypatch.setattr(checkpoint, "read_files", read)
    assert checkpoints._chosen("best")[0] == tmp_path / "step-00000002"
