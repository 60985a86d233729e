"""The real datasets, where they are."""

import os
from pathlib import Path

import numpy as np
import pytest

from app.data.heads import labelled
from tests.single.data.tfds_files import held


def real(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name a folder with the data")
    return Path(os.environ[variable])


@pytest.mark.parametrize(
    ("name", "shape", "counts", "test_per_class"),
    [
        ("cifar10", (32, 32, 3), {"train": 50_000, "test": 10_000}, 1000),
        ("clinc150", (), {"train": 15_000, "validation": 3_000, "test": 4_500}, 30),
    ],
)
def test_the_real_dataset_is_whole(name, shape, counts, test_per_class) -> None:
    validation = "validation" if "validation" in counts else 0
    keys = {} if validation == "validation" else {"validation": 0}
    data = held(real("LOCKSTEP_TFDS_DIR"), dataset=name, **{"validation": "validation", **keys})
    dataset = data.dataset
    assert {key: len(split) for key, split in data.splits.items()} == counts
    assert (data.plan.image_shape or ()) == shape
    assert set(np.bincount(dataset.test.labels)) == {test_per_class}
    assert len(set(np.bincount(dataset.train.labels))) == 1


def test_banking77_is_read_from_its_csv_files() -> None:
    place = real("LOCKSTEP_BANKING77_DIR")
    dataset = held(place, dataset="train.csv", test="test.csv", label_key="category").dataset
    assert (len(dataset.train), len(dataset.test)) == (10_003, 3_080)
    assert len(dataset.class_names) == 77
    assert set(np.bincount(dataset.test.labels)) == {40}
    assert np.bincount(dataset.train.labels).min() == 35


def test_clinc150_is_read_with_two_labels_of_which_what_is_out_of_scope_lacks_one() -> None:
    place = real("LOCKSTEP_CLINC150_DIR")
    splits = {"dataset": "train.csv", "validation": "validation.csv", "test": "test.csv"}
    dataset = held(place, label_key="intent,domain", **splits).dataset
    assert [(head.name, len(head.class_names)) for head in dataset.heads] == [
        ("intent", 151),
        ("domain", 10),
    ]
    counts = {"train": (15_100, 15_000), "validation": (3_100, 3_000), "test": (5_500, 4_500)}
    for name, source in dataset.splits.items():
        assert tuple(labelled(source.labels)) == counts[name]
        unknown = dataset.class_names.index("out_of_scope")
        assert ((source.labels[:, 1] < 0) == (source.labels[:, 0] == unknown)).all()
