"""A run that begins with weights from a file: what is taken of it, and what is refused."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from app.checkpoints.init_from import load_weights
from app.data.plan import DataPlan
from app.errors import UserError
from app.rundir.files import STATE
from tests.single.checkpoints.saved_runs import fresh, values


def refused(source: Path, model: keras.Model, plan: DataPlan) -> str:
    """The message with which it is refused; the model is as it was."""
    before = values(model)
    with pytest.raises(UserError) as caught:
        load_weights(source, model, plan)
    after = values(model)
    assert all(np.array_equal(before[path], after[path]) for path in before)
    return str(caught.value)


def test_a_bare_file_is_loaded_by_shape(images, tmp_path) -> None:
    file = tmp_path / "weights.safetensors"
    arrays = {
        path: value for path, value in values(images.classifier).items() if "seed" not in path
    }
    kernel = arrays["stem_conv1/kernel"].astype(tf.bfloat16.as_numpy_dtype)
    arrays["stem_conv1/kernel"] = kernel
    arrays["logits/bias"] = np.ones(3, np.int8)
    safetensors.numpy.save_file(arrays, file)
    model = fresh(images, images.plan)
    report = load_weights(file, model, images.plan)
    assert values(model)["stem_conv1/kernel"].dtype == np.float32
    assert np.array_equal(values(model)["stem_conv1/kernel"], kernel.astype(np.float32))
    assert report.source == file
    assert report.left == ["logits/bias (int8 there, float32 here)"]
    assert report.notes == [
        "the classes of the last layer are not known, and were taken to be these"
    ]


def test_a_file_of_something_else_is_refused(images, write) -> None:
    file = write("weights.safetensors", b"not weights at all")
    message = refused(file, fresh(images, images.plan), images.plan)
    assert f"init_from = '{file}' cannot be read as safetensors: " in message


def test_weights_of_another_model_are_refused(images, tmp_path) -> None:
    file = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"elsewhere": np.zeros(3, np.float32)}, file)
    message = refused(file, fresh(images, images.plan), images.plan)
    assert f"no variable of {file} fits this model: stem_conv1/kernel (not there)" in message


def test_weights_that_are_not_finite_are_refused(images, tmp_path) -> None:
    file = tmp_path / "diverged.safetensors"
    arrays = {"stem_conv1/kernel": values(images.classifier)["stem_conv1/kernel"].copy()}
    arrays["stem_conv1/kernel"][0, 0, 0, 0] = np.nan
    safetensors.numpy.save_file(arrays, file)
    message = refused(file, fresh(images, images.plan), images.plan)
    assert "'stem_conv1/kernel' holds numbers that are not finite" in message


def test_a_damaged_checkpoint_is_refused_or_gives_way_to_the_one_before(images, tmp_path) -> None:
    run = shutil.copytree(images.directory, tmp_path / "run")
    newest = run / "checkpoints" / images.checkpoint.name
    older = shutil.copytree(newest, run / "checkpoints" / "step-00000000")
    content = bytearray((newest / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "state.safetensors").write_bytes(content)
    model = fresh(images, images.plan)
    assert f"checkpoint {newest} is damaged" in refused(newest, model, images.plan)
    assert load_weights(run, model, images.plan).source == older
    shutil.rmtree(older)
    assert f"checkpoint {newest} is damaged" in refused(run, model, images.plan)


def test_a_checkpoint_of_another_format_is_refused(images, tmp_path) -> None:
    copy = shutil.copytree(images.checkpoint, tmp_path / "copy")
    about = json.loads((copy / STATE).read_text())
    for other in {*copy.iterdir()} - {copy / STATE, copy / "state.safetensors"}:
        other.unlink()
    (copy / STATE).write_text(json.dumps({**about, "format": 1}))
    message = refused(copy, fresh(images, images.plan), images.plan)
    assert "has format 1, but this code reads" in message


def test_nothing_of_the_optimizer_is_loaded(make_classifier, images, tmp_path) -> None:
    model = make_classifier(keras.optimizers.SGD(0.1, momentum=0.9, name="sgd"))
    before = {one.path: np.asarray(one.numpy()) for one in model.optimizer.variables}
    arrays = {path: value for path, value in values(model).items() if "seed" not in path}
    more = {path: np.asarray(value + 1) for path, value in before.items()}
    file = tmp_path / "all.safetensors"
    safetensors.numpy.save_file({**arrays, **more}, file)
    assert set(load_weights(file, model, images.plan).loaded) == set(arrays)
    for variable in model.optimizer.variables:
        assert np.array_equal(variable.numpy(), before[variable.path])
