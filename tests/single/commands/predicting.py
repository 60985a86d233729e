"""Trains a small run, asks it, and sums up its answers."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from app.commands.predict import predict
from app.commands.saved_run import SavedRun
from app.distributed.world import World
from app.load import LoadedData, load_data
from app.recipe import load
from app.train import train


def trained(directory: Path, **keys: object) -> Path:
    train(load(None, {"run_dir": directory, **keys}))
    return directory


def own_data(run: SavedRun) -> LoadedData:
    return load_data(run.config, World())


def save(path: Path, grey: int, size: tuple[int, int] = (8, 8), mode: str = "L", **how) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path, **how)
    return str(path)


def answers(
    tmp_path: Path, run: Path, *inputs: object, batch_size: int = 64, top: int | None = None
) -> tuple[int, list[dict]]:
    """(exit code, the lines written)."""
    output = tmp_path / "answers.jsonl"
    code = predict(run, [str(given) for given in inputs], batch_size, top, output)
    return code, [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def errors(found: list[dict]) -> list[str]:
    """The reasons, and the class where there is none."""
    return [one.get("error") or one["class"] for one in found]


def confusion(found: list[dict], labels: np.ndarray, names: list[str]) -> np.ndarray:
    counts = np.zeros((len(names), len(names)), int)
    for one, label in zip(found, labels, strict=True):
        counts[label, names.index(one["class"])] += 1
    return counts


def loss(found: list[dict], labels: np.ndarray, names: list[str]) -> float:
    right = (one["probabilities"][names[n]] for one, n in zip(found, labels, strict=True))
    return float(np.mean([-np.log(p) for p in right]))
