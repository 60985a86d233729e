"""Runs of the embedded data, exported: the code in the model card works with TensorFlow alone."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from app.__main__ import main
from app.commands.export import NAMES
from app.commands.export_model import export
from app.commands.saved_run import open_run
from tests.integration.launching import ROOT

pytestmark = pytest.mark.full_matrix  # slow: CI runs it

ONLY_TENSORFLOW = """
import importlib.util, sys
assert not any(importlib.util.find_spec(name) for name in ("app", "models"))
assert not {"horovod", "tensorflow_text"} & set(sys.modules)
"""
IN_KERAS = """
import keras, tensorflow as tf
layer = keras.layers.TFSMLayer("savedmodel", call_endpoint="serving_default")
print(layer(tf.constant(["a text", "and another"]))["label"])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a short run of a recipe, by its name."""
    root, trained = tmp_path_factory.mktemp("runs"), set[str]()

    def train(recipe: str) -> Path:
        if recipe not in trained:
            flags = ["--recipe", f"launch/recipes/{recipe}.toml", "--run-dir", str(root / recipe)]
            assert main(["train", *flags, "--epochs=2"]) == 0
            trained.add(recipe)
        return root / recipe

    return train


def python(code: str, directory: Path) -> str:
    """What a fresh process in `directory` prints; it finds no package of this checkout."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code + ONLY_TENSORFLOW],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def code_of(card: Path) -> str:
    found = re.search(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that holds TensorFlow, of the same version, and nothing
    else that Lockstep needs."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    (pin,) = re.findall(r"^tensorflow==[\d.]+", (ROOT / "requirements.txt").read_text(), re.M)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=120)
    python = venv / "bin" / "python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "-q", pin], capture_output=True, text=True, timeout=900
    )
    assert installed.returncode == 0, installed.stderr
    packages = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, timeout=60
    ).stdout
    assert "tensorflow" in packages and "horovod" not in packages and "pydantic" not in packages
    return python


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("recipe", "format"),
    [("digits", "savedmodel"), ("digits", "keras"), ("digits", "tflite"), ("pydocs", "savedmodel")],
)
def test_with_tensorflow_alone_an_export_predicts_what_the_run_does(
    recipe: str,
    format: str,
    run: Callable[[str], Path],
    clean_python: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = run(recipe)
    monkeypatch.setattr(sys, "executable", str(clean_python))  # where the check is run
    started: list[str] = []
    real = subprocess.run

    def spy(command, **options):
        started.append(command[0])
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", spy)
    path = export(directory, format, tmp_path / NAMES[format], None)
    assert started == [str(clean_python)]
    card = path.with_name(f"{path.name}.md").read_text()
    assert re.search(r"\d{3} rows", card), card


@pytest.mark.parametrize(
    ("format", "quantize"),
    [("savedmodel", None), ("keras", None), ("tflite", None), ("tflite", "int8")],
)
def test_digits_are_read_by_the_code_in_the_card(
    format: str, quantize: str | None, run: Callable[[str], Path]
) -> None:
    path = export(run("digits"), format, None, quantize)
    card = path.with_name(f"{path.name}.md")
    image = np.zeros((1, 8, 8, 1), np.uint8)
    # Every file that TensorFlow decodes will do: its name says nothing.
    (path.parent / "photo.jpg").write_bytes(tf.io.encode_png(image[0]).numpy())
    label = int(np.argmax(open_run(run("digits")).classifier(image, training=False)))
    printed = python(code_of(card), path.parent)
    assert f"b'{label}'" in printed
    assert "359 rows" in card.read_text() and "accuracy on 359 of 359 in test" in card.read_text()


def test_docstrings_are_read_by_the_code_in_the_card_and_by_keras(
    run: Callable[[str], Path],
) -> None:
    path = export(run("pydocs"), "savedmodel", None, None)
    opened = open_run(run("pydocs"))
    ids, _ = opened.tokenizer.encode(np.array(["a text", "and another"], dtype=object))
    for row in opened.classifier(ids.to_tensor(), training=False).numpy():
        label = opened.class_names[int(row.argmax())]
        for code in (code_of(path.with_name("savedmodel.md")), IN_KERAS):
            assert label in python(code, path.parent)
