"""Folders of images: layouts, bad examples, and nothing from outside."""

from pathlib import Path

import numpy as np
import pytest

from app.data.bad import BadExamples
from app.data.sources.file_names import IMAGE_SUFFIXES
from app.data.sources.folders import find_splits
from app.errors import UserError
from tests.single.data.making import make


def found(root: Path, policy="error") -> dict[str, list[tuple[str, int]]]:
    splits = find_splits(root, BadExamples(policy))
    return {
        name: list(zip(split.files.paths, split.files.labels.tolist(), strict=True))
        for name, split in splits.items()
    }


def refused(root: Path, policy="error") -> str:
    with pytest.raises(UserError) as caught:
        find_splits(root, BadExamples(policy))
    return str(caught.value)


def test_folders_of_classes_are_the_training_split(tmp_path: Path) -> None:
    root = make(tmp_path / "pets", "dog/2.jpg", "cat/b.PNG", "dog/1.jpg", "cat/a.jpeg")
    assert found(root) == {
        "train": [("cat/a.jpeg", 0), ("cat/b.PNG", 0), ("dog/1.jpg", 1), ("dog/2.jpg", 1)]
    }
    split = find_splits(root, BadExamples())["train"]
    assert split.class_names == ("cat", "dog")
    assert split.files.root == root
    assert split.files.labels.dtype == np.int64
    assert split.files.read(np.array([3])) == [b"pixels of dog/2.jpg"]
    assert split.files.where(0) == str(root / "cat/a.jpeg")


@pytest.mark.parametrize("validation", ["validation", "val", "valid", "dev", "Val"])
def test_folders_of_splits_share_the_classes_of_training(tmp_path: Path, validation: str) -> None:
    paths = ("train/b/1.jpg", "train/a/1.jpg", f"{validation}/b/2.jpg", "test/a/3.jpg", "README")
    root = make(tmp_path / "pets", *paths)
    assert found(root) == {
        "train": [("train/a/1.jpg", 0), ("train/b/1.jpg", 1)],
        "validation": [(f"{validation}/b/2.jpg", 1)],
        "test": [("test/a/3.jpg", 0)],
    }
    splits = find_splits(root, BadExamples())
    assert all(split.class_names == ("a", "b") for split in splits.values())


def test_a_class_may_hold_nested_folders(tmp_path: Path) -> None:
    root = make(tmp_path / "pets", "cat/2024/may/1.jpg", "cat/9.jpg", "dog/x/y.webp")
    assert found(root)["train"] == [
        ("cat/2024/may/1.jpg", 0),
        ("cat/9.jpg", 0),
        ("dog/x/y.webp", 1),
    ]


def test_classes_named_by_numbers_are_labelled_by_value(tmp_path: Path) -> None:
    root = make(tmp_path / "digits", "10/a.jpg", "9/a.jpg")
    assert found(root)["train"] == [("10/a.jpg", 1), ("9/a.jpg", 0)]


def test_a_class_may_be_called_train_if_it_has_no_folders(tmp_path: Path) -> None:
    root = make(tmp_path / "vehicles", "train/1.jpg", "car/1.jpg")
    assert found(root) == {"train": [("car/1.jpg", 0), ("train/1.jpg", 1)]}


@pytest.mark.parametrize("where", [".", "pets/../pets"])
def test_paths_do_not_depend_on_how_the_folder_is_named(tmp_path, monkeypatch, where) -> None:
    root = make(tmp_path / "pets", "cat/a.jpg")
    monkeypatch.chdir(root if where == "." else tmp_path)
    assert found(Path(where)) == found(root)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_of_an_image_is_an_example(tmp_path: Path, suffix: str) -> None:
    root = make(tmp_path / "pets", f"cat/a{suffix}", f"cat/b{suffix.upper()}")
    assert len(found(root)["train"]) == 2


def test_other_files_are_counted_and_hidden_ones_skipped(tmp_path: Path) -> None:
    others = ("Thumbs.db", ".DS_Store", "._a.jpg", "a.json", "deep/notes.txt", "deep/.b.png")
    paths = ("cat/a.jpg", *(f"cat/{name}" for name in others), "README.md", "loose.jpg")
    root = make(tmp_path / "pets", *paths, ".git/objects/1.jpg", "cat/.thumbnails/a.jpg")
    assert found(root)["train"] == [("cat/a.jpg", 0)]
    bad = BadExamples()
    find_splits(root, bad)
    assert bad.notes == [
        f"{root}: 1 images next to the class folders belong to no class: left out (the first: "
        "loose.jpg)",
        f"{root}: files in class folders that are not images: 1 .json, 1 .txt",
        f"{root}: hidden or system files and folders, skipped: 1 .DS_Store, 1 ._*, 1 .b.png, "
        "1 .git, 1 .thumbnails, 1 Thumbs.db",
    ]


def test_each_split_counts_its_own_other_files(tmp_path: Path) -> None:
    root = make(tmp_path / "pets", "train/a/1.jpg", "train/a/1.txt", "test/a/1.jpg", "test/x.csv")
    make(root, "test/a/2.csv", "LICENSE")
    bad = BadExamples()
    find_splits(root, bad)
    assert bad.notes == [
        f"{root}/train: files in class folders that are not images: 1 .txt",
        f"{root}/test: files in class folders that are not images: 1 .csv",
    ]


def test_an_empty_class_of_training_ends_the_run_or_is_left_out(tmp_path: Path) -> None:
    root = make(tmp_path / "pets", "ant/", "bee/1.jpg", "cat/notes.txt", "dog/1.jpg")
    message = refused(root)
    assert message.startswith(f"{root / 'ant'}: no image in this class folder: looked for .jpg ")
    bad = BadExamples("skip")
    split = find_splits(root, bad)["train"]
    assert split.class_names == ("bee", "dog")
    assert split.files.labels.tolist() == [0, 1]
    assert [one.where for one in bad.found] == [str(root / "ant"), str(root / "cat")]


def test_an_empty_class_of_test_is_nothing_to_speak_of(tmp_path: Path) -> None:
    root = make(tmp_path / "pets", "train/a/1.jpg", "train/b/1.jpg", "test/a/", "test/b/2.jpg")
    make(root, "test/unknown/")
    assert found(root)["test"] == [("test/b/2.jpg", 1)]


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_class_that_training_lacks_is_named_or_left_out(tmp_path: Path, split: str) -> None:
    root = make(tmp_path / "pets", "train/cat/1.jpg", f"{split}/cats/1.jpg", f"{split}/cat/2.jpg")
    message = refused(root)
    assert message.startswith(f"{root / split / 'cats'}: no such class in training: ")
    assert "did you mean 'cat'?" in message
    bad = BadExamples("skip")
    splits = list(find_splits(root, bad).values())
    assert splits[1].files.paths.tolist() == [f"{split}/cat/2.jpg"]
    assert [one.where for one in bad.found] == [f"{root}/{split}/cats/1.jpg"]
    assert "no class 'cats' in training: did you mean 'cat'?" in bad.found[0].reason


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([], "no images in"),
        (["1.jpg", "2.jpg"], "no images in"),
        (["cat/", "dog/"], "no images in"),
        (["train/cat/"], "no images in"),
        (["train/1.jpg", "test/cat/1.jpg"], "1 images, but no folders of classes"),
        (["train/1.jpg", "test/2.jpg"], "without folders of classes"),
        (["train/cat/1.jpg", "val/cat/"], "no images in"),
        (["test/cat/1.jpg"], "no 'train'"),
    ],
)
@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_folder_without_images_is_told_the_layout(tmp_path, paths, expected, policy) -> None:
    message = refused(make(tmp_path / "pets", *paths), policy)
    assert expected in message and "FOLDER/train/<class>/*.jpg" in message


def test_a_missing_folder_and_a_file_are_told_the_layout(tmp_path: Path) -> None:
    make(tmp_path, "pets.zip")
    for name, what in (("pets", "no such folder"), ("pets.zip", "not a folder")):
        message = refused(tmp_path / name)
        assert message.startswith(f"{tmp_path / name}: {what}; expected one folder per class")


@pytest.mark.parametrize("other", ["extra", "unlabelled", "seg_pred"])
def test_a_folder_next_to_splits_that_is_not_one_is_not_skipped(tmp_path, other: str) -> None:
    root = make(tmp_path / "pets", "train/cat/1.jpg", f"{other}/cat/1.jpg")
    message = refused(root)
    assert f"'{other}', which is not one of train, validation, val, valid, dev, test" in message


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "pets", "train/cat/1.jpg", "dev/cat/1.jpg", "val/cat/1.jpg")
    assert "'dev' and 'val' are both the validation split" in refused(root)


@pytest.mark.parametrize("link", ["cat/a.jpg", "cat/more", "dog", "README"])
@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_link_that_leads_outside_ends_the_run(tmp_path: Path, link: str, policy) -> None:
    make(tmp_path, "elsewhere/a.jpg")
    root = make(tmp_path / "pets", "cat/1.jpg")
    outside = tmp_path / "elsewhere" / ("a.jpg" if link == "cat/a.jpg" else "")
    (root / link).symlink_to(outside)
    message = refused(root, policy)
    assert message.startswith(f"{root / link} is a link to {outside}, outside {root}: nothing")


def test_a_neighbour_whose_name_begins_alike_is_outside(tmp_path: Path) -> None:
    make(tmp_path, "pets-private/a.jpg")
    root = make(tmp_path / "pets", "cat/1.jpg")
    (root / "dog").symlink_to(tmp_path / "pets-private")
    assert "outside" in refused(root)


def test_links_inside_are_followed(tmp_path: Path) -> None:
    root = make(tmp_path / "real", "train/cat/1.jpg", "test/")
    (root / "test" / "cat").symlink_to(root / "train" / "cat")
    (root / "train" / "cat" / "2.jpg").symlink_to("1.jpg")
    (tmp_path / "pets").symlink_to(root)  # the folder itself may be a link
    assert found(tmp_path / "pets") == {
        "train": [("train/cat/1.jpg", 0), ("train/cat/2.jpg", 0)],
        "test": [("test/cat/1.jpg", 0), ("test/cat/2.jpg", 0)],
    }


@pytest.mark.parametrize(
    "links", [{"cat/x": "cat"}, {"cat/x": "."}, {"cat/a/x": "cat/b", "cat/b/y": "cat/a"}]
)
def test_links_in_a_circle_are_refused(tmp_path: Path, links: dict[str, str]) -> None:
    root = make(tmp_path / "pets", "cat/1.jpg", "cat/a/1.jpg", "cat/b/1.jpg")
    for link, target in links.items():
        (root / link).symlink_to(root / target)
    assert "symbolic links form a loop" in refused(root)


@pytest.mark.parametrize("target", ["gone.jpg", "broken.jpg"])
def test_a_link_to_nothing_is_a_bad_example(tmp_path: Path, target: str) -> None:
    root = make(tmp_path / "pets", "cat/1.jpg")
    (root / "cat" / "broken.jpg").symlink_to(target)
    assert "a symbolic link to nothing" in refused(root)
    assert found(root, "skip")["train"] == [("cat/1.jpg", 0)]
