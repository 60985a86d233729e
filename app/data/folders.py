"""Folders of images, and image files that a table names: which files there are, with which labels.

Knows the file system and nothing of pixels. Nothing outside the given folder is ever read.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.data.bad import BadExamples
from app.data.classes import check_class_names, sort_class_names
from app.data.image_files import ImageFiles
from app.errors import UserError, suggest

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
SPLITS = {
    "train": "train",
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    "test": "test",
}
LAYOUT = (
    "expected one folder per class, FOLDER/<class>/*.jpg, or one per split with the classes in it: "
    "FOLDER/train/<class>/*.jpg, and FOLDER/validation and FOLDER/test likewise"
)


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """One split of a folder: its classes, its images ordered by path, and how many files of other
    kinds lie among them."""

    class_names: tuple[str, ...]
    files: ImageFiles
    ignored: int


def find_splits(root: Path, bad: BadExamples) -> dict[str, FolderSplit]:
    """The splits of a folder of images, without opening any.

    Either ROOT/train/<class>/... with other splits next to it, or ROOT/<class>/..., which is the
    split "train". A class's images may lie in nested folders. Labels number the classes of the
    training split; a class without an image there is a bad example. Hidden folders are passed over;
    hidden files, and those that are not named like an image, are counted as ignored.

    Raises:
        UserError: the folder is missing or has another layout, a class has no image or is not in
            the training split, or a symbolic link leads outside or in a circle.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: {'not a folder' if root.exists() else 'no such folder'}; {LAYOUT}"
        )
    tree = _Tree(root, bad)
    folders = _split_folders(tree)
    found = {split: tree.classes(folder) for split, folder in folders.items()}

    classes = found["train"][0]
    for name in [name for name, paths in classes.items() if not paths]:
        if any(classes.values()):
            looked_for = " ".join(EXTENSIONS)
            where = str(root / folders["train"] / name)
            bad.add(where, f"no image in this class folder: looked for {looked_for}")
        del classes[name]
    names = sort_class_names(classes)
    check_class_names(names, str(root / folders["train"]))
    return {
        split: FolderSplit(names, _number(root, folders[split], classes, names), ignored)
        for split, (classes, ignored) in found.items()
    }


def _split_folders(tree: "_Tree") -> dict[str, str]:
    """The folder of each split, relative to ROOT; "" if ROOT itself holds the classes."""
    folders = [entry.name for entry in tree.entries("")[0]]
    given = [
        name
        for name in folders
        # Without 'train', Training/<class> and Testing/<class> would pass as two classes.
        if name.lower() in (*SPLITS, "training", "testing") and tree.entries(name)[0]
    ]
    if not given:
        return {"train": ""}
    splits: dict[str, str] = {}
    for name in folders:
        split = SPLITS.get(name.lower())
        if split is None:
            raise UserError(
                f"{tree.root} has folders named like splits ({', '.join(given)}) and '{name}', "
                f"which is none of {', '.join(SPLITS)}: rename it, or move it elsewhere"
            )
        if split in splits:
            raise UserError(
                f"{tree.root}: '{splits[split]}' and '{name}' are both the {split} split: keep one"
            )
        splits[split] = name
    if "train" not in splits:
        raise UserError(f"{tree.root} has {', '.join(folders)}, but no 'train'; {LAYOUT}")
    return {split: splits[split] for split in ("train", "validation", "test") if split in splits}


def _number(
    root: Path, folder: str, classes: dict[str, list[str]], names: tuple[str, ...]
) -> ImageFiles:
    """The images of all classes in the order of their paths, labelled by the place in `names`."""
    if not any(classes.values()):
        raise UserError(f"no images in {root / folder}; {LAYOUT}")
    labels = {name: label for label, name in enumerate(names)}
    for name, paths in classes.items():
        if paths and name not in labels:
            raise UserError(
                f"{root / folder / name}: no such class in training: "
                f"{suggest(name, names).partition('Valid: ')[0]}Classes are those that have "
                "images in training: add some there, or remove this folder"
            )
    rows = sorted((path, labels[name]) for name, paths in classes.items() for path in paths)
    return ImageFiles(
        root,
        np.array([path for path, _ in rows], dtype=object),
        np.array([label for _, label in rows], dtype=np.int64),
    )


class _Tree:
    """Lists what lies below a root, and follows symbolic links no further than that.

    Folders and paths are relative to the root.
    """

    def __init__(self, root: Path, bad: BadExamples):
        self.root = root
        self._real_root = os.path.realpath(root)
        self._bad = bad

    def entries(self, folder: str) -> tuple[list[os.DirEntry], list[os.DirEntry]]:
        """The folders that are not hidden, and the files, both ordered by name."""
        folders, files = [], []
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if not entry.name.isprintable() and "\ufffd" in _as_utf8(entry.name):
                        self._bad.add(ascii(entry.path), "its name is not UTF-8: rename it")
                        continue
                    link = entry.is_symlink()
                    if link:
                        self._resolve(entry.path)
                    # os.path.isdir for links only: DirEntry.is_dir raises for one to itself.
                    if not (os.path.isdir(entry.path) if link else entry.is_dir()):
                        files.append(entry)
                    elif not entry.name.startswith("."):
                        folders.append(entry)
        except OSError as error:
            raise UserError(f"{self.root / folder} cannot be read: {error.strerror}") from None
        return folders, files

    def classes(self, folder: str) -> tuple[dict[str, list[str]], int]:
        """The paths of each class's images, and how many other files there are."""
        folders, loose = self.entries(folder)
        classes: dict[str, list[str]] = {}
        ignored = len(loose)
        for entry in folders:
            classes[entry.name] = []
            for path, image in self._walk(os.path.join(folder, entry.name), (self._real_root,)):
                if image:
                    classes[entry.name].append(path)
                else:
                    ignored += 1
        return classes, ignored

    def _walk(self, folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
        """Each file below, and whether it is named like an image."""
        real = self._resolve(os.path.join(self.root, folder))
        if real in above:
            raise UserError(f"{self.root / folder}: symbolic links lead in a circle: remove one")
        folders, files = self.entries(folder)
        for entry in files:
            path = os.path.join(folder, entry.name)
            image = entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")
            if not image or entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path):
                yield path, image
            else:
                self._bad.add(entry.path, "not a file: a symbolic link to nothing, or a device")
        for entry in folders:
            yield from self._walk(os.path.join(folder, entry.name), (*above, real))

    def _resolve(self, path: str) -> str:
        real = os.path.realpath(path)
        if not _is_inside(real, self._real_root):
            raise UserError(
                f"{path} is a link to {real}, outside {self.root}: nothing outside the given "
                "directory is read. Put the files themselves there"
            )
        return real


def _as_utf8(name: str) -> str:
    """The name, with U+FFFD for what is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def _is_inside(real: str, real_root: str) -> bool:
    return real == real_root or real.startswith(os.path.join(real_root, ""))


def list_files(
    list_path: Path,
    root: Path,
    rows: Sequence[str],
    labels: np.ndarray,
    wheres: Sequence[str],
    bad: BadExamples,
) -> ImageFiles:
    """The image files that the rows of a table name, without opening any.

    A row without a file is a bad example; it is left out, and its label with it.

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
        if not _is_inside(target, real_root):
            raise UserError(
                f"{where}: '{row}' is outside {root}: nothing outside the given directory is read. "
                "Move the file, and give a path inside"
            )
        if os.path.isfile(target):
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
