"""The run directory: what it holds, and what it refuses to overwrite."""

import json
import os
import stat
from pathlib import Path

import pytest

from app.config import Config
from app.data.plan import DataPlan
from app.errors import UserError
from app.recipe import load
from app.rundir.contents import (
    check_same_data,
    check_same_run,
    default_directory,
    find_run,
    keep_run,
    saved_plan,
    write_file,
    write_metrics,
)

PLAN = DataPlan("digits", "image", ("é",), "f00d", {"train": 3}, {}, False, (8, 8, 1))


def config(**overrides: object) -> Config:
    return load(None, overrides)


def begun(path: Path, **overrides: object) -> Config:
    """A run that has not ended an epoch yet."""
    kept = config(**overrides)
    keep_run(path, kept, PLAN)
    return kept


def trained(path: Path, **overrides: object) -> Config:
    """A run that has ended an epoch."""
    kept = begun(path, **overrides)
    (path / "checkpoints" / "step-00000001").mkdir()
    return kept


def test_a_run_leaves_its_config_and_its_dataset(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one"
    wanted = config(epochs=3).in_directory(path)
    keep_run(path, wanted, PLAN)
    assert load(path / "config.toml", {}) == wanted
    assert saved_plan(path).to_json() == PLAN.to_json()
    assert (path / "checkpoints").is_dir()


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_or_empty_directory_holds_no_run(tmp_path: Path, resume: bool) -> None:
    assert find_run(tmp_path, resume) is None
    assert find_run(tmp_path / "new", resume) is None


def test_a_directory_that_holds_a_run_is_refused_unless_resumed(tmp_path: Path) -> None:
    kept = trained(tmp_path, epochs=3)
    with pytest.raises(UserError, match=f"{tmp_path} already holds a run: add --resume"):
        find_run(tmp_path, resume=False)
    assert find_run(tmp_path, resume=True) == kept


def test_a_start_that_was_interrupted_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".step-00000001.partial").mkdir(parents=True)
    for name in ("logs", "tensorboard", "data_plan"):
        (tmp_path / name).mkdir()
    for name in (".lock", ".config.toml.partial", "bad_examples.jsonl"):
        (tmp_path / name).touch()
    assert find_run(tmp_path, resume=True) is None
    assert find_run(tmp_path, resume=False) is None
    kept = begun(tmp_path, model="resnet20")
    assert find_run(tmp_path, resume=True) == kept  # the flags it was begun with still count
    assert find_run(tmp_path, resume=False) is None


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "metrics.json", "export"])
def test_a_directory_that_holds_something_else_is_refused(tmp_path, name, resume) -> None:
    begun(tmp_path)
    (tmp_path / name).write_text("years of work")
    with pytest.raises(UserError, match=rf"is not empty and holds no run \(it contains {name}\)"):
        find_run(tmp_path, resume)


def test_checkpoints_without_a_config_are_not_trained_over(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "config.toml").unlink()
    with pytest.raises(UserError, match=r"holds checkpoints but no config.toml"):
        find_run(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("key", "before", "now"),
    [
        ("dataset", "digits", "pydocs"),
        ("model", "cnn", "resnet20"),
        ("width", 4, 8),
        ("max_tokens", 10, 20),
        ("seed", 1, 2),
        ("optimizer", "adam", "sgd"),
    ],
)
def test_another_dataset_model_or_optimizer_cannot_resume_a_run(key, before, now) -> None:
    with pytest.raises(UserError) as caught:
        check_same_run(Path("runs/one"), config(**{key: before}), config(**{key: now}))
    assert f"runs/one was trained with {key} = {before!r}, not {now!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "before", "now"),
    [("data_dir", "/old/place", "/new/place"), ("epochs", 1, 2), ("compression", "none", "fp16")],
)
def test_what_may_differ_when_a_run_is_resumed(key, before, now) -> None:
    check_same_run(Path("runs/one"), config(**{key: before}), config(**{key: now}))


def test_data_that_changed_since_cannot_resume_a_run(tmp_path: Path) -> None:
    check_same_data(tmp_path, PLAN, "f00d")
    with pytest.raises(UserError, match="fingerprint f00d, now two"):
        check_same_data(tmp_path, PLAN, "two")


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another version of Lockstep.*plan.json: No such file"):
        saved_plan(tmp_path)
    keep_run(tmp_path, config(), PLAN)
    file = tmp_path / "data_plan" / "plan.json"
    file.write_text(file.read_text().replace('"format": 3', '"format": 2'))
    with pytest.raises(UserError, match=r"another version of Lockstep.* format 2, .* reads 3"):
        saved_plan(tmp_path)


@pytest.mark.parametrize("content", ["", "[1]", "no json", '{"format": 3}'])
def test_a_damaged_plan_is_named(tmp_path: Path, content: str) -> None:
    keep_run(tmp_path, config(), PLAN)
    file = tmp_path / "data_plan" / "plan.json"
    file.write_text(content)
    with pytest.raises(UserError, match=f"{file} cannot be read"):
        saved_plan(tmp_path)


@pytest.mark.parametrize("below", ["run", "deep/run", ""])
def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a directory")
    path = tmp_path / "file" / below
    with pytest.raises(UserError, match=r"cannot write the run directory .*file"):
        keep_run(path, config(), PLAN)


def test_a_saved_config_that_is_damaged_is_named(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "config.toml").write_text("[data\n")
    with pytest.raises(UserError, match=f"{tmp_path / 'config.toml'} is not TOML"):
        find_run(tmp_path, resume=True)


def test_the_default_directory_names_dataset_and_model() -> None:
    folder, name = default_directory(config(dataset="my data/é?.csv", model="bag")).parts
    assert folder == "runs"
    assert name.startswith("é--bag-")


def test_a_small_file_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "some.json"
    write_file(path, "old")

    def fail(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="power cut"):
            write_file(path, "new")
    assert path.read_text() == "old"
    write_file(path, "new")
    assert path.read_text() == "new"


def test_a_small_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch) -> None:
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda file: (done.append(os.fstat(file).st_mode), fsync(file)))
    monkeypatch.setattr("os.replace", lambda *names: (done.append("named"), replace(*names)))
    write_file(tmp_path / "some.json", "new")
    assert stat.S_ISREG(done[0]) and done[1] == "named" and stat.S_ISDIR(done[2])


def test_metrics_are_json(tmp_path: Path) -> None:
    write_metrics(tmp_path, {"test_accuracy": 0.5, "step": 3})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"test_accuracy": 0.5, "step": 3}
