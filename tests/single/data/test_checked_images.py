"""What decoding every image of a stream found is kept with the run."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.build import load_data
from app.config import Config
from app.data import hold
from app.distributed.world import World
from app.errors import UserError
from app.recipe import load
from app.rundir import CHECKED, keep_run, saved_checked
from app.train import train

IMAGES = 44
BAD = "truncated or damaged JPEG"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A small run over a stream of images of which one is cut off."""
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, 16, 16, 3)).astype(np.uint8)
    for number, image in enumerate(noise):
        path = tmp_path / "images" / ("train" if number < 40 else "test") / "ab"[number % 2]
        path.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG")
        content = file.getvalue()
        path = path / f"{number:02}.jpg"
        path.write_bytes(content[: len(content) * 9 // 10] if number == 6 else content)
    keys = {"dataset": str(tmp_path / "images"), "hold": "stream", "validation": 0}
    training = {"model": "cnn", "width": 2, "epochs": 1, "global_batch_size": 20}
    run = {"run_dir": str(tmp_path / "run"), "on_bad": "skip"}
    return load(None, {**keys, **training, **run})


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Grows by the number of images of each call that decodes to see whether they are good."""
    calls: list[int] = []
    usual = hold.decode_images

    def counted(encoded, spec):
        calls.append(len(encoded))
        return usual(encoded, spec)

    monkeypatch.setattr(hold, "decode_images", counted)
    return calls


def test_a_resumed_run_does_not_decode_every_image_again(config: Config, decoded) -> None:
    directory = config.run.run_dir
    assert directory is not None
    train(config, world=World())
    assert sum(decoded) == IMAGES
    kept = json.loads((directory / CHECKED).read_text())
    assert sorted(kept.values()) == [[], [[3, BAD]]]  # the fourth of class a
    decoded.clear()
    training = config.training.model_copy(update={"epochs": 2})
    longer = config.model_copy(update={"training": training})
    metrics = train(longer, resume=True, world=World())
    assert not decoded
    assert metrics["bad_examples"] == 1 and metrics["epoch"] == 2


def test_what_was_checked_holds_for_the_same_data_decoded_the_same_way_alone(
    config: Config, decoded, tmp_path: Path
) -> None:
    first = load_data(config, World())
    keep_run(tmp_path, config, first.describe(), checked=first.checked)
    known = saved_checked(tmp_path)
    decoded.clear()
    again = load_data(config, World(), None, known)
    assert not decoded and again.bad == first.bad
    assert again.describe() == first.describe()
    larger = config.model_copy(update={"data": config.data.model_copy(update={"image_size": 24})})
    load_data(larger, World(), None, known)
    assert sum(decoded) == IMAGES
    decoded.clear()
    other = next((tmp_path / "images" / "test" / "a").iterdir())
    other.write_bytes(other.read_bytes() + b"more")
    load_data(config, World(), None, known)
    assert sum(decoded) == IMAGES


def test_a_bad_image_that_is_known_still_ends_a_run_that_allows_none(config: Config) -> None:
    known = load_data(config, World()).checked
    strict = config.model_copy(update={"data": config.data.model_copy(update={"on_bad": "error"})})
    with pytest.raises(UserError, match=f"06.jpg: {BAD}"):
        load_data(strict, World(), None, known)


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"a": 3}', '{"a": [[1]]}', "no json"])
def test_a_damaged_record_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / CHECKED).write_text(content)
    assert saved_checked(tmp_path) == {}
