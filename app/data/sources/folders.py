"""Folders of images, and image files that a table names: which files there are, with which labels.

Knows the file system and nothing of pixels. Nothing outside the given folder is ever read.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from app.data.bad import BadExamples
from app.data.sources.classes import clean_class_name, merges, sort_class_names
from app.data.sources.file_names import (
    IMAGE_SUFFIXES,
    NOT_READ,
    counted,
    is_image,
    is_system,
    is_unread,
    suffix_of,
)
from app.data.sources.image_files import ImageFiles
from app.data.sources.split_folders import LAYOUT, check_inside, split_folders
from app.data.sources.tree import Tree, is_inside
from app.errors import UserError, suggest


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """One split of a folder: its classes, and its images ordered by path."""

    class_names: tuple[str, ...]
    files: ImageFiles


@dataclass(eq=False)
class _Class:
    """What lies in the folders of one class: their names, its images, and other files."""

    folders: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def unread(self) -> list[str]:
        return [path for path in self.others if is_unread(path)]


def find_splits(root: Path, bad: BadExamples) -> dict[str, FolderSplit]:
    """The splits of a folder of images, without opening any.

    Either ROOT/train/<class>/... with other splits next to it, or ROOT/<class>/..., which is the
    split "train". A class's images may lie in nested folders; folders whose names look equal are
    one class. Labels number the classes of the training split; a class without an image there is a
    bad example, and so are the images of a class whose format is not read, all together. Other
    files, and hidden and system ones, are skipped with a note.

    Raises:
        UserError: the folder is missing or has another layout, a class is not in the training
            split, or symbolic links lead outside or form a loop.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: {'not a folder' if root.exists() else 'no such folder'}; {LAYOUT}"
        )
    tree = Tree(root, bad)
    folders = split_folders(tree, bad)
    found = {split: _classes(tree, folder, bad) for split, folder in folders.items()}
    for split, classes in found.items():
        _tell_left_out(root / folders[split], classes, split == "train", bad)
    if skipped := tree.skipped():
        bad.note(f"{root}: {skipped}")
    names = sort_class_names(name for name, one in found["train"].items() if one.images)
    return {
        split: FolderSplit(names, _number(root, folders[split], classes, names, bad))
        for split, classes in found.items()
    }


def _classes(tree: Tree, folder: str, bad: BadExamples) -> dict[str, _Class]:
    """What each class of a split holds, by its name, in the order of the folders."""
    folders, loose = tree.entries(folder)
    classes: dict[str, _Class] = {}
    inside: dict[str, list[str]] = {}
    for entry in folders:
        name = clean_class_name(entry.name)
        if not name:
            raise UserError(f"{entry.path!a}: a class needs a name that can be seen: rename it")
        one = classes.setdefault(name, _Class())
        one.folders.append(entry.name)
        place = os.path.join(folder, entry.name)
        nested: set[str] = set()
        for path in tree.files(place):
            (one.images if is_image(path) else one.others).append(path)
            first, deeper, _ = path[len(place) + 1 :].partition(os.sep)
            nested.update([first] if deeper else [])
        inside[entry.name] = sorted(nested)
    check_inside(tree.root / folder, inside, bad)
    spellings = {name: one.folders for name, one in classes.items()}
    for note in merges(spellings, str(tree.root / folder)):
        bad.note(note)
    if images := [entry.name for entry in loose if is_image(entry.name) or is_unread(entry.name)]:
        bad.note(
            f"{tree.root / folder}: {len(images):,} images next to the class folders belong to no "
            f"class: left out (the first: {images[0]})"
        )
    return classes


def _tell_left_out(
    folder: Path, classes: dict[str, _Class], training: bool, bad: BadExamples
) -> None:
    """Note which files of each class are not examples; a class may have no image left."""
    no_images: Counter[str] = Counter()
    some = any(one.images for one in classes.values())
    for one in classes.values():
        no_images.update(suffix_of(path) for path in one.others if not is_unread(path))
        where = str(folder / one.folders[0])
        if not one.images and training and some:
            bad.add(where, _no_image(one))
        elif one.unread and some:
            number = len(one.unread)
            bad.add(
                where,
                f"{number:,} of {number + len(one.images):,} images of this class cannot be read: "
                f"{_unread(one)} (the first: {os.path.basename(one.unread[0])})",
                counted=False,
            )
    if no_images:
        bad.note(f"{folder}: files in class folders that are not images: {counted(no_images)}")


def _unread(one: _Class) -> str:
    return f"{counted(Counter(map(suffix_of, one.unread)))}, {NOT_READ}"


def _no_image(one: _Class) -> str:
    """Why a class folder gives no example."""
    if one.unread:
        return f"no image that can be read in this class folder: {_unread(one)}"
    others = Counter(map(suffix_of, one.others))
    held = f"; there are {counted(others)}" if others else ""
    return f"no image in this class folder: looked for {' '.join(IMAGE_SUFFIXES)}{held}"


def _number(
    root: Path,
    folder: str,
    classes: dict[str, _Class],
    names: tuple[str, ...],
    bad: BadExamples,
) -> ImageFiles:
    """The images of all classes in the order of their paths, labelled by the place in `names`."""
    if not any(one.images for one in classes.values()):
        unread = _Class(others=[path for one in classes.values() for path in one.unread])
        why = f": {_unread(unread)}" if unread.others else f"; {LAYOUT}"
        raise UserError(f"no images in {root / folder}{why}")
    labels = {name: label for label, name in enumerate(names)}
    rows: list[tuple[str, int]] = []
    for name, one in classes.items():
        if name in labels:
            rows += [(path, labels[name]) for path in one.images]
        elif one.images:
            _leave_out_class(root, root / folder / one.folders[0], name, one, names, bad)
    rows.sort()
    return ImageFiles(
        root,
        np.array([path for path, _ in rows], dtype=object),
        np.array([label for _, label in rows], dtype=np.int64),
    )


def _leave_out_class(
    root: Path, where: Path, name: str, one: _Class, names: tuple[str, ...], bad: BadExamples
) -> None:
    """Every image of a class that training lacks is a bad example."""
    hint = suggest(name, names).partition("Valid: ")[0]
    if bad.policy == "error":
        bad.add(
            str(where),
            f"no such class in training: {hint}Classes are those that have images in training: "
            "add some there, or remove this folder",
        )
    for path in one.images:
        bad.add(os.path.join(root, path), f"no class '{name}' in training: {hint}")


def list_files(
    list_path: Path,
    root: Path,
    rows: Sequence[str],
    labels: np.ndarray,
    wheres: Sequence[str],
    bad: BadExamples,
) -> ImageFiles:
    """The image files that the rows of a table name, without opening any.

    A row without a file, or that names a thumbnail or another system file, is a bad example; it
    is left out, and its label with it.

    Args:
        list_path: the table; the paths in it start from its folder.
        root: the outermost folder that may be read.
        rows: the path in each row.
        labels: class ids, int64 `(rows,)`.
        wheres: what each row is called in messages, such as "list.csv, line 3".
        bad: what to do about a missing file.

    Raises:
        UserError: a path leads outside `root`, by itself or by symbolic links, whatever `bad` says.
    """
    real_root = os.path.realpath(root)
    prefix = len(os.path.join(real_root, ""))
    folder = os.fspath(list_path.parent)
    resolve = functools.cache(os.path.realpath)  # once for each folder, not for each file
    kept: list[int] = []
    paths: list[str] = []
    for number, (row, where) in enumerate(zip(rows, wheres, strict=True)):
        try:
            path, target = _locate(os.path.join(folder, row), resolve)
        except ValueError:  # a NUL or half a surrogate pair, which no file name can hold
            path = target = os.path.join(real_root, "")
        if not is_inside(target, real_root):
            raise UserError(
                f"{where}: '{row}' is outside {root}: nothing outside the given directory is read. "
                "Move the file, and give a path inside"
            )
        if any(map(is_system, row.split("/"))):
            reason = f"'{row}' is a thumbnail or a system file, not an example"
            bad.add(where, reason, counted=False)
        elif os.path.isfile(target):
            kept.append(number)
            paths.append(path[prefix:])
        else:
            bad.add(where, f"no file '{row}' in {folder}")
    return ImageFiles(
        root, np.array(paths, dtype=object), labels[kept], [wheres[number] for number in kept]
    )


def _locate(path: str, resolve: Callable[[str], str]) -> tuple[str, str]:
    """The path with its folder resolved, and the file that it leads to if it is a link."""
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        folder, name = path, ""
    path = os.path.join(resolve(folder), name)
    return path, os.path.realpath(path) if os.path.islink(path) else path
