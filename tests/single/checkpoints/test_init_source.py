"""What a run may begin from: found, or refused before TensorFlow is loaded."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from app.checkpoints.init_source import InitSource, find_source
from app.data.plan import DataPlan
from app.errors import UserError
from app.recipe import load
from app.rundir.contents import keep_run
from app.rundir.files import STATE, RunFiles


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A run on texts that has saved two checkpoints."""
    plan = DataPlan(
        "reviews", "text", ("bad", "good"), "fingerprint", {"train": 1}, {}, False,
        tokenizer={"kind": "words"}, lengths={"train": np.ones(1, np.uint8)},
    )  # fmt: skip
    keep_run(tmp_path / "texts", load(None, {"model": "bag"}), plan)
    for step in ("step-00000001", "step-00000002"):
        checkpoint = RunFiles(tmp_path / "texts").checkpoints / step
        checkpoint.mkdir()
        (checkpoint / STATE).write_text("{}")
        (checkpoint / "state.safetensors").write_bytes(b"")
    return tmp_path / "texts"


def known(source: InitSource) -> tuple[Path, str | None, tuple[str, ...] | None]:
    return source.place, source.model, source.plan and source.plan.class_names


def refused(source: Path, kind: str = "image") -> str:
    with pytest.raises(UserError) as caught:
        find_source(source, kind)
    assert f"'{source}'" in str(caught.value)
    return str(caught.value)


def test_a_run_is_known_by_its_directory_a_checkpoint_and_its_file(texts, monkeypatch) -> None:
    about = ("bag", ("bad", "good"))
    checkpoints = RunFiles(texts).checkpoints
    one = checkpoints / "step-00000001"
    assert known(find_source(texts, "text")) == (checkpoints, *about)
    assert known(find_source(one, "text")) == (one, *about)
    assert known(find_source(one / "state.safetensors", "text")) == (one, *about)
    monkeypatch.chdir(one)
    assert known(find_source(Path("."), "text")) == (Path("."), *about)


def test_of_a_file_elsewhere_nothing_is_known(texts, tmp_path, write) -> None:
    file = write("weights.safetensors", b"")
    assert known(find_source(file, "image")) == (file, None, None)
    copy = Path(shutil.copytree(RunFiles(texts).checkpoints / "step-00000001", tmp_path / "alone"))
    assert known(find_source(copy, "image")) == (copy, None, None)
    for source in (file, copy):
        assert "lies outside of a run, so it is not known which token" in refused(source, "text")


def test_what_is_no_source_is_refused(texts, tmp_path, write) -> None:
    assert "does not exist: give a run, checkpoint or file" in refused(tmp_path / "nowhere")
    assert "is not a .safetensors file" in refused(write("weights.h5", b""))
    neither = "is neither a run (no config.toml) nor a checkpoint (no state.json)"
    assert neither in refused(RunFiles(texts).checkpoints)
    assert "was trained on texts, but the model of this run reads images" in refused(texts)
    shutil.rmtree(RunFiles(texts).checkpoints)
    assert "holds no checkpoint: the run has not saved one yet" in refused(texts, "text")
