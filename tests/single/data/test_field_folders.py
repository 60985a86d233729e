"""Folders and names as people have them: what is an example, of which class, in which split.

Each case is the name of what was met, tiny files, and the right outcome. Nothing is decoded here,
so files hold anything. A new case is one more entry in `CASES`.
"""

import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.config import Data
from app.data.bad import BadExamples
from app.data.catalogue import load_dataset
from app.data.sources.classes import clean_class_name
from app.data.sources.split_folders import find_roles
from app.errors import UserError


class Case(NamedTuple):
    """What is there, and what must come of it.

    `files`: paths to make, "{}" standing for 0 to 9; those that end with .csv are given with
    their content in `tables`. `splits`: what each split is counted to. `told`: what the notes and
    the list of bad examples must say; or `refused`: what the one message must say.
    """

    name: str
    files: tuple[str, ...] = ()
    tables: dict[str, str] = {}
    keys: dict[str, Any] = {}
    classes: tuple[str, ...] = ()
    splits: dict[str, int] = {}
    told: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


COMPOSED, DECOMPOSED = "café", unicodedata.normalize("NFD", "café")
TWO = ("cat", "dog")
WHOLE = {"validation": 0, "test": 0.1}
TRAIN = ("train/cat/{}.jpg", "train/dog/{}.jpg")


def rows(*labels: str) -> str:
    return "text,label\n" + "".join(
        f"text {i} {label},{label}\n" for i in range(5) for label in labels
    )


CASES = [
    # Item 4: left out without a word
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
            told=(f"passed over: 3 {folder}",),
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
        told=("passed over: 10 ._*, 1 Thumbs.db, 1 desktop.ini",),
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
        "images beside the folders of classes",
        ("cat/{}.jpg", "dog/{}.jpg", "loose1.jpg", "loose2.heic", "list.txt"),
        keys=WHOLE,
        classes=TWO,
        told=("2 images beside the folders of classes belong to none", "loose1.jpg"),
    ),
    # Item 5: folders that are splits
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
        refused=("'extra', which is none of train", "rename it, or move it elsewhere"),
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
    # Item 6: names that look equal
    *[
        Case(
            f"folders {name!a} and {other!a}",
            (f"{name}/{{}}.jpg", f"{other}/x{{}}.jpg", "zoo/{}.jpg"),
            keys=WHOLE,
            classes=(clean, "zoo"),
            splits={"train": 27, "test": 3},
            told=(f"class '{clean}' is one, written in 2 ways: ",),
        )
        for name, other, clean in (
            (COMPOSED, DECOMPOSED, COMPOSED),
            ("hot dog", "hot  dog", "hot dog"),
            ("hot dog", "hot\u00a0dog", "hot dog"),
            ("cat", "cat ", "cat"),
            ("cat", "cat\u200b", "cat"),
            ("cat", "\ufeffcat", "cat"),
            ("cat", "ca\u2060t", "cat"),
        )
    ],
    *[
        Case(
            f"folders of train and test: {name!a} and {other!a}",
            (f"train/{name}/{{}}.jpg", "train/zoo/{}.jpg", f"test/{other}/{{}}.jpg"),
            classes=(clean_class_name(name), "zoo"),
            splits={"train": 18, "validation": 2, "test": 10},
        )
        for name, other in ((COMPOSED, DECOMPOSED), ("cat ", "cat"), ("a\u200b b", "a\u00a0b"))
    ],
    *[
        Case(
            f"labels {name!a} and {other!a} in a table",
            tables={"t.csv": rows(name, other, "zoo")},
            keys={"dataset": "t.csv", "validation": 0, "test": 0.2},
            classes=(clean, "zoo"),
            splits={"train": 12, "test": 3},
            told=(f"t.csv: class '{clean}' is one, written in 2 ways: ",),
        )
        for name, other, clean in (
            (COMPOSED, DECOMPOSED, COMPOSED),
            ("hot dog", "hot  dog", "hot dog"),
            ("cat", "cat\u00a0", "cat"),
            ("cat", "cat\u200b", "cat"),
            ("cat", "c\ufeffat", "cat"),
        )
    ],
    *[
        Case(
            f"labels of two tables: {name!a} and {other!a}",
            tables={"t.csv": rows(name, "zoo"), "test.csv": rows(other)},
            keys={"dataset": "t.csv", "validation": 0, "test": "test.csv"},
            classes=(clean_class_name(name), "zoo"),
            splits={"train": 10, "test": 5},
        )
        for name, other in ((COMPOSED, DECOMPOSED), ("hot dog", "hot\u2060 \u00a0dog"))
    ],
    Case(
        "a label that nobody sees",
        tables={"t.csv": rows("cat", "dog") + "text,\u200b\n"},
        keys={"dataset": "t.csv", "test": 0.2},
        classes=TWO,
        told=("line 12: column 'label' is empty",),
    ),
    Case(
        "compatibility characters stay apart",
        ("x²/{}.jpg", "x2/{}.jpg", "①/{}.jpg", "1/{}.jpg"),
        keys=WHOLE,
        classes=("1", "x2", "x²", "①"),
        splits={"train": 36, "test": 4},
    ),
    Case(
        "letters that differ by case, in folders",
        ("A/{}.jpg", "a/{}.jpg"),
        refused=("'A' and 'a' differ only by case", "--case-sensitive-classes true"),
    ),
    Case(
        "letters that differ by case, in folders, wanted",
        ("A/{}.jpg", "a/{}.jpg"),
        keys={**WHOLE, "case_sensitive_classes": True},
        classes=("A", "a"),
        splits={"train": 18, "test": 2},
    ),
    Case(
        "letters that differ by case, in splits, wanted",
        tuple(f"{split}/{letter}/{{}}.jpg" for split in ("train", "test") for letter in "Aa"),
        keys={"validation": 0, "case_sensitive_classes": True},
        classes=("A", "a"),
        splits={"train": 20, "test": 20},
    ),
    Case(
        "letters that differ by case, in a table",
        tables={"t.csv": rows("A", "a")},
        keys={"dataset": "t.csv"},
        refused=("'A' (line 2) and 'a' (line 3) differ only by case", "--case-sensitive-classes"),
    ),
    Case(
        "letters that differ by case, in a table, wanted",
        tables={"t.csv": rows("A", "a")},
        keys={"dataset": "t.csv", "validation": 0, "test": 0.2, "case_sensitive_classes": True},
        classes=("A", "a"),
        splits={"train": 8, "test": 2},
    ),
]


def make(root: Path, case: Case) -> None:
    for pattern in case.files:
        for path in [pattern.format(i) for i in range(10)] if "{}" in pattern else [pattern]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"content of " + path.encode())
    for name, content in case.tables.items():
        (root / name).write_text(content, encoding="utf-8")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_folders_and_names_as_people_have_them(tmp_path: Path, case: Case) -> None:
    root = tmp_path / "data"
    root.mkdir()
    make(root, case)
    keys = dict(case.keys)
    keys["dataset"] = str(root / keys.get("dataset", "."))
    for split in ("validation", "test"):
        if str(keys.get(split)).endswith(".csv"):
            keys[split] = str(root / keys[split])
    bad = BadExamples("skip")
    if case.refused:
        with pytest.raises(UserError) as caught, bad.shown_before_errors():
            load_dataset(Data(**keys), 0, bad)
        for part in case.refused:
            assert part in str(caught.value)
        return
    dataset = load_dataset(Data(**keys), 0, bad)
    assert dataset.kind == ("image" if case.files else "text")
    assert dataset.class_names == case.classes
    if case.splits:
        assert {name: len(split) for name, split in dataset.splits.items()} == case.splits
    told = bad.left_out(100)
    for part in case.told:
        assert any(part in line for line in told), (part, told)
    assert case.told or not told


def test_a_split_is_known_by_its_name_and_a_class_stays_one() -> None:
    assert find_roles(["seg_train", "seg_test", "seg_pred"]) == {
        "seg_train": "train",
        "seg_test": "test",
        "seg_pred": "unlabelled",
    }
    assert find_roles(["bullet_train", "steam_train", "test_tube", "contest", "developer"]) == {}
    assert find_roles(["train_val", "trainval", "train"]) == {"train": "train"}
    assert find_roles([]) == {}


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("  a \t b\u3000c ", "a b c"),
        ("e\u200b\u0301", "é"),  # what was between them is removed before they are composed
        ("\u200b\ufeff", ""),
        ("a\u200db", "a\u200db"),  # a joiner changes what is seen
        ("Å Å", "Å Å"),  # the unit is the letter in NFC
        ("①", "①"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_a_clean_name_is_what_is_seen(name: str, clean: str) -> None:
    assert clean_class_name(name) == clean
    assert clean_class_name(clean) == clean
