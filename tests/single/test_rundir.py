"""The run directory: what it holds, and what it refuses to overwrite."""

import json
from pathlib import Path

import pytest

from app.config import Config
from app.errors import UserError
from app.recipe import load
from app.rundir import default_directory, open_directory, write_file, write_metrics

DATASET = {"name": "digits", "class_names": ["é"], "fingerprint": "f00d"}


def config(**overrides: object) -> Config:
    return load(None, overrides)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(path: Path, wanted: Config, *, resume: bool) -> str:
    """The message, after checking that nothing has been written."""
    before = content(path)
    with pytest.raises(UserError) as caught:
        open_directory(path, wanted, resume, DATASET)
    assert content(path) == before
    return str(caught.value)


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_directory_gets_the_config_and_the_dataset(tmp_path: Path, resume: bool) -> None:
    path = tmp_path / "runs" / "one"
    wanted = config(epochs=3).in_directory(path)
    open_directory(path, wanted, resume, DATASET)
    assert load(path / "config.toml", {}) == wanted
    assert json.loads((path / "dataset.json").read_text(encoding="utf-8")) == DATASET
    assert (path / "checkpoints").is_dir()


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    open_directory(tmp_path, config(), False, DATASET)
    assert (tmp_path / "config.toml").exists()


def test_a_directory_that_holds_a_run_is_refused_unless_resumed(tmp_path: Path) -> None:
    open_directory(tmp_path, config(), False, DATASET)
    message = refusal(tmp_path, config(), resume=False)
    assert f"{tmp_path} holds a run already" in message and "--resume" in message
    open_directory(tmp_path, config(epochs=99), True, DATASET)
    assert load(tmp_path / "config.toml", {}).training.epochs == 99


@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    message = refusal(tmp_path, config(), resume=resume)
    assert f"{tmp_path} is not empty and holds no run" in message and "--run-dir" in message


@pytest.mark.parametrize(
    ("key", "before", "now"),
    [
        ("dataset", "digits", "pydocs"),
        ("model", "cnn", "resnet20"),
        ("width", 4, 8),
        ("max_tokens", 10, 20),
    ],
)
def test_another_dataset_or_model_cannot_resume_a_run(tmp_path: Path, key, before, now) -> None:
    open_directory(tmp_path, config(**{key: before}), False, DATASET)
    message = refusal(tmp_path, config(**{key: now}), resume=True)
    assert f"was trained with {key} = {before!r}, not {now!r}" in message


def test_the_data_may_have_moved_when_a_run_is_resumed(tmp_path: Path) -> None:
    open_directory(tmp_path, config(data_dir="/old/place"), False, DATASET)
    open_directory(tmp_path, config(data_dir="/new/place"), True, DATASET)
    assert load(tmp_path / "config.toml", {}).data.data_dir == Path("/new/place")


def test_data_that_changed_since_cannot_resume_a_run(tmp_path: Path) -> None:
    open_directory(tmp_path, config(), False, {**DATASET, "fingerprint": "one"})
    with pytest.raises(UserError, match="fingerprint one, now two"):
        open_directory(tmp_path, config(), True, {**DATASET, "fingerprint": "two"})


def test_another_seed_cannot_resume_a_run(tmp_path: Path) -> None:
    open_directory(tmp_path, config(seed=1), False, DATASET)
    with pytest.raises(UserError, match="seed"):
        open_directory(tmp_path, config(seed=2), True, DATASET)


@pytest.mark.parametrize("below", ["run", "deep/run", ""])
def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a directory")
    path = tmp_path / "file" / below
    with pytest.raises(UserError, match=r"cannot write the run directory .*file"):
        open_directory(path, config(), False, DATASET)


def test_a_saved_config_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[data\n")
    assert f"{tmp_path / 'config.toml'} is not TOML" in refusal(tmp_path, config(), resume=True)


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


def test_metrics_are_json(tmp_path: Path) -> None:
    write_metrics(tmp_path, {"test_accuracy": 0.5, "step": 3})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"test_accuracy": 0.5, "step": 3}
