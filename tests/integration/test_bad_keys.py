"""Keys that do not fit the data: what is said of each."""

from pathlib import Path

import pytest
from PIL import Image

from app.data.batches import Loaded
from app.distributed.world import World
from app.errors import UserError
from app.load import load_data
from app.recipe import load
from tests.integration.bad_input import csv_of, load_keys, message_of, picture


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"label_key": "lable"}, "no column 'lable': did you mean 'label'?"),
        ({"input_key": "label"}, "cannot be both input and label"),
        ({"test": "none.csv"}, "no file none.csv"),
        ({"test": 1.0}, "test = 1.0: expected a share between 0 and 1"),
        ({"validation": 0.001}, "holds out none: give a larger share"),
        ({"flip": "both"}, "[augmentation] is for images, but t holds texts"),
        ({"hold": "stream"}, "write it to files first"),
        ({"model": "cnn"}, "model 'cnn' does not read texts"),
    ],
)
def test_keys_that_do_not_fit_a_table_are_named(write, keys, reason: str) -> None:
    assert reason in message_of(write("t.csv", csv_of()), **keys)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"validation": "dev"}, "no split 'dev' for validation: it has train"),
        ({"model": "bag"}, "model 'bag' does not read images"),
    ],
)
def test_keys_that_do_not_fit_a_folder_are_named(photos: Path, keys, reason: str) -> None:
    assert reason in message_of(photos, **keys)


def test_mixed_sizes_need_a_size(photos: Path) -> None:
    Image.new("RGB", (30, 20)).save(photos / "cat" / "large.png")
    assert "images have mixed sizes: give --image-size" in message_of(photos)
    assert load_keys(photos, image_size=16).plan.image_shape == (16, 16, 3)


@pytest.mark.parametrize("hold", ["memory", "stream"])
def test_a_split_of_bad_images_alone_is_named(photos: Path, hold: str) -> None:
    (photos / "train").mkdir()
    for folder in ("cat", "dog"):
        (photos / folder).rename(photos / "train" / folder)
    (photos / "test" / "cat").mkdir(parents=True)
    (photos / "test" / "cat" / "1.png").write_bytes(picture(99)[:-40])
    assert "test" in message_of(photos, "skip", hold=hold)


def test_a_list_of_missing_images_alone_says_so(write) -> None:
    path = write("image.csv", "image,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(20)))
    assert "no file '0.png'" in message_of(path, "skip")


@pytest.mark.parametrize("name", ["digits", "synthetic-image:size=8,examples=100"])
def test_a_size_for_images_in_memory_is_used_or_refused(name: str) -> None:
    keys = {"dataset": name, "image_size": 16}
    try:
        data = load_data(load(None, keys), World())
    except UserError:
        return
    split = data.splits["train"]
    assert isinstance(split, Loaded)
    assert split.everything.shape[1:3] == (16, 16)
