"""A run that is killed again and again, and the same run undisturbed; on one rank or several."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors.numpy

from app.config import Config
from app.distributed.world import World
from app.recipe import load
from app.train import train
from models.layers import Dropout

# 1294 digits in batches of 300: 5 steps an epoch, the last of them short; commits in the middle
# and at the end of each.
KEYS = {"global_batch_size": 300, "epochs": 2, "commit_every_steps": 2, "keep_checkpoints": 20}


# With a table of `write_texts`.
TEXTS = {"global_batch_size": 110, "validation": 60 / 620, "test": 60 / 620}


class Killed(Exception):  # noqa: N818 (what happened)
    """Stands for the end of a process."""


class Kill(keras.callbacks.Callback):
    """Ends a run at a moment: before or after the step of this number, or at the end of an epoch
    after it."""

    def __init__(self, moment: str, step: int):
        super().__init__()
        self.moment = moment
        self.step = step

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._end("before", 1)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._end("after", 0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._end("epoch end", 0)

    def _end(self, moment: str, ahead: int) -> None:
        if self.moment == moment and int(self.model.optimizer.iterations) + ahead == self.step:
            raise Killed


def config_of(directory: Path, **keys: Any) -> Config:
    return load(None, {**KEYS, "run_dir": str(directory), **keys})


def write_texts(path: Path) -> Path:
    """A table of 620 short texts in two classes, of which 500 train: 5 steps with `TEXTS`."""
    rng = np.random.default_rng(5)
    rows = [" ".join(f"w{word}" for word in rng.integers(0, 50, 6)) for _ in range(620)]
    lines = [f"{text},{'yes' if number % 2 else 'no'}" for number, text in enumerate(rows)]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


def run_killed(config: Config, world: World, kills: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """Train, killed at each of the moments in turn and resumed with nothing but what is on disk."""
    for kill in kills:
        try:
            train(config, resume=True, world=world, callbacks=[Kill(*kill)])
        except Killed:
            continue
        raise AssertionError(f"the run ended before {kill}")
    return train(config, resume=True, world=world)


def checkpoints(directory: Path) -> dict[str, dict[str, np.ndarray]]:
    """Every array of every checkpoint of a run, and what is said of it, by name."""
    found = {}
    for path in sorted((directory / "checkpoints").iterdir()):
        arrays = safetensors.numpy.load_file(path / "state.safetensors")
        said = json.loads((path / "state.json").read_text())
        for name, values in said["metrics"].items():
            arrays[f"metric {name}"] = np.array(values)
        arrays["position"] = np.array([said[n] for n in ("step", "epoch", "examples_seen")])
        found[path.name] = arrays
    return found


def assert_same_bits(left: Path, right: Path) -> None:
    """All checkpoints of two runs are equal to the bit, metrics and positions included."""
    ours, theirs = checkpoints(left), checkpoints(right)
    assert ours.keys() == theirs.keys()
    for name, arrays in ours.items():
        assert arrays.keys() == theirs[name].keys()
        for path, value in arrays.items():
            assert value.tobytes() == theirs[name][path].tobytes(), f"{name}: {path}"


def normed(image_shape: tuple[int, int, int], classes: int, **_: Any) -> keras.Model:
    """A small network with BatchNorm and Dropout."""
    inputs = keras.Input(image_shape, dtype="uint8")
    x = keras.layers.Rescaling(1 / 255, name="rescale")(inputs)
    x = keras.layers.Flatten(name="flatten")(x)
    x = Dropout(0.2, name="first_dropout")(x)
    x = keras.layers.Dense(32, name="hidden")(x)
    x = keras.layers.BatchNormalization(name="norm", momentum=0.9)(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = Dropout(0.5, name="second_dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="logits")(x))
