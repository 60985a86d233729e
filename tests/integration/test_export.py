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
from app.export import export
from app.saved_run import open_run

pytestmark = pytest.mark.full_matrix  # slow: CI runs it

ONLY_TENSORFLOW = """
import importlib.util, sys
assert not any(importlib.util.find_spec(name) for name in ("app", "models"))
assert not {"horovod", "sentencepiece", "tensorflow_text"} & set(sys.modules)
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
    ids, _ = opened.encoder(np.array(["a text", "and another"], dtype=object))
    for row in opened.classifier(ids.to_tensor(), training=False).numpy():
        label = opened.class_names[int(row.argmax())]
        for code in (code_of(path.with_name("savedmodel.md")), IN_KERAS):
            assert label in python(code, path.parent)
