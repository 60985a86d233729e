"""Data with something bad in it, and what loading it comes to."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.distributed.world import World
from app.errors import UserError
from app.load import load_data
from app.recipe import load

ROWS = [(f"some good words {i}", "yes") for i in range(20)]
ROWS += [(f"other bad words {i}", "no") for i in range(20)]
MEND = ". Fix or remove it, or skip bad examples with --on-bad skip"


def load_keys(dataset: Path, on_bad: str = "error", **keys):
    model = "cnn" if dataset.is_dir() or "image" in dataset.name else "bag"
    keys = {"model": model, "per_rank_batch_size": 8, **keys}
    return load_data(load(None, {"dataset": str(dataset), "on_bad": on_bad, **keys}), World())


def message_of(dataset: Path, on_bad: str = "error", **keys) -> str:
    with pytest.raises(UserError) as caught:
        load_keys(dataset, on_bad, **keys)
    return str(caught.value)


def picture(shade: int, mode: str = "RGB", file_format: str = "PNG", **options) -> bytes:
    """A noisy image of 12x12 pixels: other bytes than any other shade's."""
    noise = np.random.default_rng(shade).integers(0, 256, (12, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, file_format, **options)
    return file.getvalue()


def csv_of(*more: str, rows=ROWS) -> str:
    return "\n".join(["text,label", *(f"{text},{label}" for text, label in rows), *more]) + "\n"


def jsonl_of(*more: str) -> str:
    rows = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
    return "\n".join([*rows, *more]) + "\n"


def rows_of(directory: Path) -> list[dict[str, str]]:
    lines = (directory / "bad_examples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
