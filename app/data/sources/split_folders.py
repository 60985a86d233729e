"""Which folders are splits, by their names: train/, Testing/, seg_train/, val_images/.

A folder is taken for a split, refused, or left out with a note; "train" is never a class beside
"test".
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from app.data.bad import BadExamples
from app.data.sources.classes import clean_class_name
from app.data.sources.file_names import is_image, is_unread
from app.data.sources.tree import Tree
from app.errors import UserError

SPLITS = ("train", "validation", "test")
LAYOUT = (
    "expected one folder per class, FOLDER/<class>/*.jpg, or one per split with the classes in it: "
    "FOLDER/train/<class>/*.jpg, and FOLDER/validation and FOLDER/test likewise"
)
UNLABELLED = "unlabelled"
ROLES = {
    **dict.fromkeys(("train", "training", "训练集", "训练"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev", "development", "验证集"), "validation"),
    **dict.fromkeys(("test", "testing", "测试集", "测试"), "test"),
    **dict.fromkeys(("pred", "predict", "prediction", "predictions"), UNLABELLED),
    **dict.fromkeys(("unlabelled", "unlabeled", "unlabel", "inference"), UNLABELLED),
}
# Words that say nothing of which split it is, and numbers such as the year in val2017.
_FILLERS = "dataset|data|sets?|images?|imgs?|photos?|pictures?|pics?|files|samples|split|folder|dir"
_WORD = re.compile(rf"({'|'.join(sorted(ROLES, key=len, reverse=True))})(?:{_FILLERS})?")
_FILLER = re.compile(_FILLERS)


def split_folders(tree: Tree, bad: BadExamples) -> dict[str, str]:
    """The folder of each split that is there, relative to the root; "" if the root itself holds the
    classes, which are the split "train" then.

    A split other than training that holds images and no class folders has no labels: it is left
    out with a note, and so is a folder without images. In train/train/<class> it is the inner one.

    Raises:
        UserError: two folders are the same split, training is missing or has no class folders, or
            a folder is neither a split nor empty.
    """
    folders = [entry.name for entry in tree.entries("")[0]]
    roles = find_roles(folders)
    inner = {name: _inner(tree, name, role) for name, role in roles.items()}
    labelled = [name for name in roles if tree.entries(inner[name])[0]]
    if not any(roles[name] in SPLITS for name in labelled):
        if _cannot_be_classes(folders, roles):
            raise UserError(
                f"{tree.root}: {_quoted(roles)}: named like splits, without folders of classes "
                f"inside: {LAYOUT}. Or give a table with the path and the label of each image. If "
                "that is a class, rename it"
            )
        return {"train": ""}
    found: dict[str, str] = {}
    for name in folders:
        role = roles.get(name)
        if role in SPLITS and name in labelled:
            if role in found:
                raise UserError(
                    f"{tree.root}: '{found[role]}' and '{name}' are both the {role} split: keep one"
                )
            found[role] = inner[name]
            continue
        _leave_out(tree, name, role, name in labelled, [one for one in roles if one != name], bad)
    if "train" not in found:
        raise UserError(f"{tree.root} has {', '.join(folders)}, but no 'train'; {LAYOUT}")
    return {split: found[split] for split in SPLITS if split in found}


def _cannot_be_classes(folders: Sequence[str], roles: Mapping[str, str]) -> bool:
    """Whether folders of images alone are named like several splits, or like nothing else: 'valid'
    beside 'invalid', and test1 beside test2, can be classes."""
    found = set(roles.values())
    nothing_else = len(roles) == len(folders) and (len(found) > 1 or len(folders) == 1)
    return len(found & set(SPLITS)) > 1 or (nothing_else and found != {UNLABELLED})


def _leave_out(
    tree: Tree, name: str, role: str | None, labelled: bool, beside: Sequence[str], bad: BadExamples
) -> None:
    """Note a folder that is not a split of labelled images, or refuse it if it could be meant as
    one."""
    images = sum(is_image(path) or is_unread(path) for path in tree.files(name))
    where = tree.root / name
    if role == "train" and not labelled:
        raise UserError(f"{where}: {images:,} images, but no folders of classes; {LAYOUT}")
    if role and not labelled:
        bad.note(f"{where}: {images:,} images and no folders of classes: no labels, so left out")
    elif not images:
        bad.note(f"{where}: no images: left out")
    else:
        raise UserError(
            f"{tree.root} has folders named like splits ({', '.join(beside)}) and '{name}', which "
            "is not one of train, validation, val, valid, dev, test: rename it or move it elsewhere"
        )


def find_roles(names: Iterable[str]) -> dict[str, str]:
    """What split each folder is named like, of those that are; or UNLABELLED.

    Other words in a name are ignored if a second folder has them too, as in seg_train and
    seg_test: a class may be called steam_train.
    """
    parsed = {name: one for name in names if (one := _parse(name))}
    roles_with: dict[tuple[str, ...], set[str]] = {}
    for role, others in parsed.values():
        roles_with.setdefault(others, set()).add(role)
    return {
        name: role
        for name, (role, others) in parsed.items()
        if not others or len(roles_with[others]) > 1
    }


def check_inside(folder: Path, inside: Mapping[str, Sequence[str]], bad: BadExamples) -> None:
    """Note it if the folders inside all classes are the same, as in fold_1/<class>.

    Args:
        folder: holds the folders of classes.
        inside: the names of the folders in each of them, in order.

    Raises:
        UserError: those in a class are named like splits.
    """
    for name, folders in inside.items():
        roles = find_roles(folders)
        if len(set(roles.values()) & set(SPLITS)) > 1:
            raise UserError(
                f"{folder / name} holds {_quoted(roles)}, named like splits, and would be one "
                "class of all their images: give it as the dataset if they hold the classes; "
                f"{LAYOUT}"
            )
    first, *others = inside.values() or [[]]
    if others and len(first) > 1 and all(one == first for one in others):
        bad.note(
            f"{folder}: the folders in it are the classes, and all hold the same ones "
            f"({_quoted(first[:5])}): if those are the classes, make them the outer ones"
        )


def _parse(name: str) -> tuple[str, tuple[str, ...]] | None:
    """(the split or UNLABELLED, the other words) of a name that has one word for it."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", clean_class_name(name))
    roles, others = set(), []
    for word in re.findall(r"[^\W\d_]+", spaced.lower()):
        if match := _WORD.fullmatch(word):
            roles.add(ROLES[match[1]])
        elif not _FILLER.fullmatch(word):
            others.append(word)
    return (roles.pop(), tuple(others)) if len(roles) == 1 else None


def _inner(tree: Tree, folder: str, role: str) -> str:
    """The folder itself, or while it holds nothing but one folder that is named like the same split
    or says nothing, that one: seg_train/seg_train/<class>, as archives are unpacked, or
    train/images/<class>."""
    while True:
        folders, files = tree.entries(folder)
        if len(folders) != 1 or any(is_image(entry.name) for entry in files):
            return folder
        name = folders[0].name
        parsed = _parse(name)
        if not _FILLER.fullmatch(name.lower()) and (parsed is None or parsed[0] != role):
            return folder
        folder = os.path.join(folder, folders[0].name)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
