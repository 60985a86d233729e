"""Checkpoints that cannot be used, and crashes while one is written."""

import errno
import hashlib
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

from app.checkpoints import checkpoint, files
from app.checkpoints.checkpoint import Checkpoints
from app.errors import UserError
from tests.single.checkpoints.states import assert_equal_bits, restore_message, values


def test_checkpoints_of_an_older_version_are_refused(make_state, tmp_path) -> None:
    (tmp_path / "epoch-0003").mkdir()
    with pytest.raises(UserError, match="epoch-0003 was written by an older version of Lockstep"):
        Checkpoints(tmp_path, keep=1).restore_latest(make_state())
    path = Checkpoints(tmp_path, keep=1).save(make_state(), {})
    assert Checkpoints(tmp_path, keep=1).list() == [path]


def flip_last_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.safetensors", flip_last_bit),
        ("state.safetensors", lambda content: content[:100]),
        ("state.safetensors", lambda content: b""),
        ("state.json", lambda content: content[:-20]),
        ("state.json", lambda content: b""),
        ("state.json", lambda content: b"{}"),
        ("state.json", lambda content: b"\xff\xfe"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_nothing_is_restored(
    make_state, tmp_path, name, damage
) -> None:
    checkpoints, state = Checkpoints(tmp_path, keep=2), make_state()
    path = checkpoints.save(state, {})
    (path / name).write_bytes(damage((path / name).read_bytes()))
    message = restore_message(checkpoints, make_state(seed=1))
    assert str(path) in message and "damaged" in message


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_missing_file_is_damage(make_state, tmp_path, name) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    path = checkpoints.save(make_state(), {})
    (path / name).unlink()
    assert f"checkpoint {path} is damaged" in restore_message(checkpoints, make_state())


def rewrite(path: Path, name: str, content: bytes) -> None:
    """Another content, with its checksum."""
    (path / name).write_bytes(content)
    names = ("state.safetensors", "state.json")
    sums = {one: hashlib.sha256((path / one).read_bytes()).hexdigest() for one in names}
    lines = [f"{sha256}  {name}\n" for name, sha256 in sums.items()]
    (path / "SHA256SUMS").write_text("".join(lines))


@pytest.mark.parametrize("content", ["[]", '{"format": 3}', '{"format": 3, "seed": null}'])
def test_a_position_that_is_no_position_is_damage(make_state, tmp_path, content) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    path = checkpoints.save(make_state(), {})
    rewrite(path, "state.json", content.encode())
    assert f"checkpoint {path} is damaged" in restore_message(checkpoints, make_state(seed=1))


def test_an_unknown_format_is_named(make_state, tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    path = checkpoints.save(make_state(), {})
    meta = json.loads((path / "state.json").read_text())
    rewrite(path, "state.json", json.dumps({**meta, "format": 99}).encode())
    assert f"{path} has format 99" in restore_message(checkpoints, make_state())


@pytest.mark.parametrize(
    ("other", "variable"),
    [({"batch_norm": False}, "norm"), ({"optimizer": keras.optimizers.SGD()}, "adam")],
)
def test_another_model_or_optimizer_is_named_by_a_variable(
    make_state, tmp_path, other, variable
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    path = checkpoints.save(make_state(), {})
    message = restore_message(checkpoints, make_state(**other))
    assert f"{path} belongs to another model or optimizer: '" in message
    assert variable in message


@pytest.mark.parametrize(("before", "now"), [("none", "fp16"), ("fp16", "none")])
def test_a_run_is_resumed_with_another_compression(
    make_state, batch, tmp_path, before, now
) -> None:
    state = make_state(compression=before)
    state.model.train_step(batch)
    Checkpoints(tmp_path, keep=1).save(state, {})
    fresh = make_state(seed=6, compression=now)
    Checkpoints(tmp_path, keep=1).restore_latest(fresh)
    kept = {path for path in values(state) if not path.endswith("fp16_scales")}
    assert kept < set(values(state)) | set(values(fresh))
    for path in kept:
        np.testing.assert_array_equal(values(fresh)[path], values(state)[path], err_msg=path)
    fresh.model.train_step(batch)


def test_another_shape_is_named_by_its_variable(make_classifier, make_state, tmp_path) -> None:
    checkpoints, state = Checkpoints(tmp_path, keep=2), make_state()
    path = checkpoints.save(state, {})
    arrays = safetensors.numpy.load_file(path / "state.safetensors")
    with pytest.raises(UserError, match="'logits/kernel' is missing or has another shape"):
        checkpoint._assign(path, {**arrays, "logits/kernel": np.zeros((5, 9))}, state.entries)


def fail(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", [(Path, "rename"), (files, "_write")])
def test_a_crash_while_saving_leaves_the_one_before(
    make_state, tmp_path, monkeypatch, where
) -> None:
    checkpoints, state = Checkpoints(tmp_path, keep=1), make_state()
    before = values(state)
    state.step = 1
    older = checkpoints.save(state, {})
    state.step = 2
    state.model.network.get_layer("hidden").bias.assign(np.full(5, 3, np.float32))
    with monkeypatch.context() as patch:
        patch.setattr(*where, fail)
        with pytest.raises(UserError, match="step-00000002: .*No space left on device"):
            checkpoints.save(state, {})
    assert checkpoints.list() == [older]
    fresh = make_state(seed=1)
    checkpoints.restore_latest(fresh)
    assert fresh.step == 1
    assert_equal_bits(values(fresh), before)
    checkpoints.save(state, {})  # and there is room again
    assert [path.name for path in checkpoints.list()] == ["step-00000002"]
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_newest_gives_way_to_the_one_before_with_a_warning(
    make_state, tmp_path, caplog
) -> None:
    checkpoints, state = Checkpoints(tmp_path, keep=1), make_state()
    state.epoch, state.step = 3, 30
    older = checkpoints.save(state, {})
    damaged = tmp_path / "step-00000090"
    shutil.copytree(older, damaged)
    (damaged / "state.safetensors").write_bytes(b"half of it")
    fresh = make_state(seed=1)
    assert checkpoints.restore_latest(fresh) == older
    assert (fresh.epoch, fresh.step) == (3, 30)
    assert (
        f"{damaged} is damaged (the checksum of state.safetensors is wrong): going back to {older}"
        in caplog.text
    )
    assert checkpoints.restore_model(fresh.model)[0] == older  # as evaluate and predict do
    fresh.step = 40
    newest = checkpoints.save(fresh, {})
    assert checkpoints.list() == [newest]  # and not the damaged one in its place


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    make_state, tmp_path, monkeypatch
) -> None:
    done = []
    rename = Path.rename
    for module in (checkpoint, files):
        monkeypatch.setattr(module, "flush_directory", lambda path: done.append(path.name))
    monkeypatch.setattr(Path, "rename", lambda *names: (done.append("named"), rename(*names)))
    Checkpoints(tmp_path, keep=1).save(make_state(), {})
    assert done == [".step-00000000.partial", "named", tmp_path.name]


@pytest.mark.parametrize(
    ("best", "which", "message"),
    [
        (
            "loss",
            "step-00000003",
            "no such checkpoint: did you mean 'step-00000002'? Valid: newest, step-00000001, "
            "step-00000002",
        ),
        ("loss", "bset", "no such checkpoint: Valid: newest, step-00000001, step-00000002"),
        ("loss", "best", "has no score yet; there are: newest, step-00000001, step-00000002"),
        ("none", "best", "trained without --keep-best; there are: newest, step-00000001"),
        ("none", "step-00000001", "is damaged .*SHA256SUMS.*: give another .*: step-00000002"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_an_error_that_lists_the_others(
    make_state, tmp_path, best, which, message
) -> None:
    checkpoints, state = Checkpoints(tmp_path, 9, best), make_state()
    for state.step in (1, 2):
        checkpoints.save(state, {})
    (tmp_path / "step-00000001" / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=message.replace("?", "[?]")):
        checkpoints.restore_model(state.model, which)


@pytest.mark.parametrize("which", ["best", "newest", "step-00000001"])
def test_a_run_without_checkpoints_says_so(make_state, tmp_path, which) -> None:
    with pytest.raises(UserError, match="holds no checkpoint: the run has not saved one yet"):
        Checkpoints(tmp_path, 1, "loss").restore_model(make_state().model, which)
