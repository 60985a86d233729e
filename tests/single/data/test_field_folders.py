"""Folders and names as people have them: what is an example, of which class, in which split.

Each case is the name of what was met, tiny files, and the right outcome. Nothing is decoded here,
so files hold anything. A new case is one more entry in `CASES`.
"""

from pathlib import Path

import pytest

from app.data.sources.split_folders import find_roles
from tests.single.data.field_folders import TRAIN, TWO, WHOLE, Case, check

CASES = [
    # Left out without a word
    *[
        Case(
            f"half of a class is {suffix}, which is JPEG",
            ("cat/{}.jpg", "cat/{}" + suffix, "dog/{}.jpg"),
            keys=WHOLE,
            classes=TWO,
            splits={"train": 27, "test": 3},
        )
        for suffix in (".jfif", ".JPE", ".jif", ".pjpeg")
    ],
    *[
        Case(
            f"some of a class are {suffix}",
            ("cat/{}.jpg", "cat/more/{}" + suffix, "dog/{}.jpg"),
            keys=WHOLE,
            classes=TWO,
            splits={"train": 18, "test": 2},
            told=(
                f"/cat: 10 of 20 images of this class cannot be read: 10 {suffix.lower()}, which",
            ),
        )
        for suffix in (".heic", ".HEIF", ".avif", ".tif", ".TIFF", ".psd", ".svg", ".raw", ".cr2")
    ],
    Case(
        "each class is told by its own formats",
        ("cat/{}.jpg", "cat/{}.heic", "cat/1.tif", "dog/{}.jpg", "dog/{}.avif"),
        keys=WHOLE,
        classes=TWO,
        told=("/cat: 11 of 21 images", "10 .heic, 1 .tif", "/dog: 10 of 20 images", "10 .avif"),
    ),
    Case(
        "a class loses all its images, two remain",
        ("cat/{}.jpg", "dog/{}.jpg", "emu/{}.heic"),
        keys=WHOLE,
        classes=TWO,
        told=("/emu: no image that can be read in this class folder: 10 .heic, which TensorFlow",),
    ),
    Case(
        "a class loses all its images, one remains",
        ("left/{}.heic", "right/{}.jpg"),
        refused=("have the label 'right'", "/left: no image that can be read", "10 .heic"),
    ),
    Case(
        "a class of files without a suffix",
        ("left/image{}", "right/{}.jpg"),
        refused=("have the label 'right'", "/left: no image in this", "10 (no suffix)"),
    ),
    Case(
        "no image at all can be read",
        ("cat/{}.heic", "dog/{}.heic"),
        refused=("no images in", "20 .heic, which TensorFlow does not read"),
    ),
    Case(
        "test images of a class cannot be read",
        (*TRAIN, "test/cat/{}.tif", "test/dog/{}.jpg"),
        classes=TWO,
        splits={"train": 18, "validation": 2, "test": 10},
        told=("/test/cat: 10 of 10 images of this class cannot be read: 10 .tif",),
    ),
    *[
        Case(
            f"{folder} beside classes, and in one, and deep",
            ("cat/{}.jpg", "dog/{}.jpg", f"{folder}/1.jpg", f"cat/{folder}/x.jpg/2.jpg")
            + (f"dog/deep/{folder}/3.jpg",),
            keys=WHOLE,
            classes=TWO,
            splits={"train": 18, "test": 2},
            told=(f"skipped: 3 {folder}",),
        )
        for folder in ("@eaDir", "__MACOSX", ".ipynb_checkpoints", ".thumbnails", "$RECYCLE.BIN")
    ],
    Case(
        "system folders beside splits and in them",
        (*TRAIN, "__MACOSX/train/cat/._1.jpg", "test/cat/9.jpg", "test/@eaDir/9.jpg"),
        classes=TWO,
        splits={"train": 18, "validation": 2, "test": 1},
        told=("1 @eaDir", "1 __MACOSX"),
    ),
    Case(
        "files of systems among images",
        ("cat/{}.jpg", "cat/._{}.jpg", "dog/{}.jpg", "dog/Thumbs.db", "dog/desktop.ini"),
        keys=WHOLE,
        classes=TWO,
        splits={"train": 18, "test": 2},
        told=("skipped: 10 ._*, 1 Thumbs.db, 1 desktop.ini",),
    ),
    Case(
        "a list names thumbnails and the files that macOS adds",
        ("a/{}.jpg", "a/@eaDir/1.jpg", "__MACOSX/a/1.jpg", "a/._1.jpg"),
        tables={
            "list.csv": "image,label\n"
            + "".join(f"a/{i}.jpg,{'xy'[i % 2]}\n" for i in range(10))
            + "a/@eaDir/1.jpg,x\n__MACOSX/a/1.jpg,y\na/._1.jpg,y\n"
        },
        keys={"dataset": "list.csv", "validation": 0, "test": 0.2},
        classes=("x", "y"),
        splits={"train": 8, "test": 2},
        told=("line 12: 'a/@eaDir/1.jpg' is a thumbnail", "line 13: ", "line 14: "),
    ),
    Case(
        "a list of JPEG files with other suffixes",
        ("{}.jfif",),
        tables={"list.csv": "photo,label\n" + "".join(f"{i}.jfif,{i % 2}\n" for i in range(10))},
        keys={"dataset": "list.csv", "input_key": "photo", "validation": 0, "test": 0.2},
        classes=("0", "1"),
        splits={"train": 8, "test": 2},
    ),
    Case(
        "images next to the class folders",
        ("cat/{}.jpg", "dog/{}.jpg", "loose1.jpg", "loose2.heic", "list.txt"),
        keys=WHOLE,
        classes=TWO,
        told=("2 images next to the class folders belong to no class", "loose1.jpg"),
    ),
    # Folders that are splits
    *[
        Case(
            f"splits are called {train} and {test}",
            tuple(f"{folder}/{c}/{{}}.jpg" for folder in (train, test) for c in TWO),
            classes=TWO,
            splits={"train": 18, "validation": 2, "test": 20},
        )
        for train, test in (
            ("training_set", "test_set"),
            ("seg_train", "seg_test"),
            ("seg_train/seg_train", "seg_test/seg_test"),
            ("train/train", "test/test"),
            ("Train", "Test"),
            ("TRAIN", "TEST"),
            ("training", "testing"),
            ("Training", "Testing"),
            ("train_images", "test_images"),
            ("TrainSet", "TestSet"),
            ("trainset", "testset"),
            ("images-train", "images-test"),
            ("train2017", "test2017"),
            ("flowers train", "flowers test"),
            ("训练集", "测试集"),
        )
    ],
    *[
        Case(
            f"validation is called {validation}",
            tuple(f"{folder}/{c}/{{}}.jpg" for folder in ("train_images", validation) for c in TWO),
            keys={"test": 0.1},
            classes=TWO,
            splits={"train": 18, "validation": 20, "test": 2},
        )
        for validation in ("val_images", "valid", "dev", "Val", "validation_set", "val2017")
    ],
    Case(
        "Kaggle's seg_train, seg_test and an unlabelled seg_pred, each in itself",
        tuple(f"seg_{split}/seg_{split}/{c}/{{}}.jpg" for split in ("train", "test") for c in TWO)
        + ("seg_pred/seg_pred/{}.jpg",),
        classes=TWO,
        splits={"train": 18, "validation": 2, "test": 20},
        told=("/seg_pred: 10 images and no folders of classes: no labels, so left out",),
    ),
    *[
        Case(
            f"a flat test beside labelled splits, with test = {wanted}",
            (*TRAIN, "validation/cat/{}.jpg", "validation/dog/{}.jpg", "test/{}.jpg"),
            keys={} if wanted is None else {"test": wanted},
            classes=TWO,
            splits={"train": train, "validation": 20, "test": test},
            told=("/test: 10 images and no folders of classes: no labels, so left out",),
        )
        for wanted, train, test in ((None, 18, 2), (0.1, 18, 2), ("validation", 20, 20))
    ],
    Case(
        "a flat test that is asked for",
        (*TRAIN, "test/{}.jpg"),
        keys={"test": "test"},
        refused=("has no split 'test'", "it has train. Left out: ", "/test: 10 images and no"),
    ),
    Case(
        "flat splits, labels elsewhere",
        ("train/cat.{}.jpg", "test/{}.jpg"),
        refused=("'test', 'train': named like splits", "give a table with the path"),
    ),
    Case(
        "flat splits with other words",
        ("train_images/{}.jpg", "val_images/{}.jpg"),
        refused=("'train_images', 'val_images': named like splits",),
    ),
    Case(
        "a pair of domains as CycleGAN has it",
        ("trainA/{}.jpg", "trainB/{}.jpg", "testA/{}.jpg", "testB/{}.jpg"),
        refused=(": named like splits",),
    ),
    Case("training alone, and flat", ("train/{}.jpg",), refused=("'train': named like splits",)),
    Case(
        "valid, invalid and unlabelled are classes",
        ("valid/{}.jpg", "invalid/{}.jpg", "unlabelled/{}.jpg"),
        keys=WHOLE,
        classes=("invalid", "unlabelled", "valid"),
        splits={"train": 27, "test": 3},
    ),
    Case(
        "test1 and test2 are classes",
        ("test1/{}.jpg", "test2/{}.jpg"),
        keys=WHOLE,
        classes=("test1", "test2"),
        splits={"train": 18, "test": 2},
    ),
    Case(
        "a folder of images between the split and its classes, and in a flat test",
        ("train/images/cat/{}.jpg", "train/images/dog/{}.jpg", "test/images/{}.tif"),
        classes=TWO,
        splits={"train": 16, "validation": 2, "test": 2},
        told=("/test: 10 images and no folders of classes",),
    ),
    Case(
        "folds with the classes inside",
        ("fold_1/cat/{}.jpg", "fold_1/dog/{}.jpg", "fold_2/cat/{}.jpg", "fold_2/dog/{}.jpg"),
        keys=WHOLE,
        classes=("fold_1", "fold_2"),
        told=("all hold the same ones ('cat', 'dog'): if those are the classes, make them",),
    ),
    Case(
        "training is flat, test is not",
        ("train/{}.jpg", "test/cat/{}.jpg", "test/dog/{}.jpg"),
        refused=("/train: 10 images, but no folders of classes",),
    ),
    Case(
        "two folders for one split",
        (*TRAIN, "training_set/cat/1.jpg"),
        refused=("'train' and 'training_set' are both the train split",),
    ),
    Case(
        "splits inside each class",
        tuple(f"{c}/{split}/{{}}.jpg" for c in TWO for split in ("train", "test")),
        refused=("/cat holds 'test', 'train', named like splits",),
    ),
    Case(
        "files of a class that are named like splits",
        ("cat/train_{}.jpg", "cat/test_{}.jpg", "dog/{}.jpg"),
        keys=WHOLE,
        classes=TWO,
        splits={"train": 27, "test": 3},
    ),
    Case(
        "one folder too many around the splits",
        tuple(f"archive/{split}/{c}/{{}}.jpg" for c in TWO for split in ("train", "test")),
        refused=("/archive holds 'test', 'train'", "give it as the dataset"),
    ),
    Case(
        "a labelled folder beside splits that is none",
        (*TRAIN, "extra/cat/{}.jpg"),
        refused=("'extra', which is not one of train", "rename it or move it elsewhere"),
    ),
    Case(
        "a folder without images beside splits",
        (*TRAIN, "annotations/1.xml"),
        classes=TWO,
        splits={"train": 16, "validation": 2, "test": 2},
        told=("/annotations: no images: left out",),
    ),
    Case(
        "classes whose names have a word for a split in them",
        ("steam_train/{}.jpg", "test_tube/{}.jpg", "valid id/{}.jpg", "trainer/old/{}.jpg"),
        keys=WHOLE,
        classes=("steam_train", "test_tube", "trainer", "valid id"),
        splits={"train": 36, "test": 4},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_folders_and_names_as_people_have_them(tmp_path: Path, case: Case) -> None:
    check(case, tmp_path)


def test_a_split_is_known_by_its_name_and_a_class_stays_one() -> None:
    assert find_roles(["seg_train", "seg_test", "seg_pred"]) == {
        "seg_train": "train",
        "seg_test": "test",
        "seg_pred": "unlabelled",
    }
    assert find_roles(["bullet_train", "steam_train", "test_tube", "contest", "developer"]) == {}
    assert find_roles(["train_val", "trainval", "train"]) == {"train": "train"}
    assert find_roles([]) == {}
