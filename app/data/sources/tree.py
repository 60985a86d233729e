"""What lies below a folder: follows symbolic links no further than that. Opens no file."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from app.data.bad import BadExamples
from app.data.sources.file_names import counted, is_hidden, is_image
from app.errors import UserError


class Tree:
    """Lists folders and files below a root; both, and paths, are relative to the root.

    Hidden and system files and folders are skipped with all they hold; `skipped` counts them.
    """

    def __init__(self, root: Path, bad: BadExamples):
        self.root = root
        self._real_root = os.path.realpath(root)
        self._bad = bad
        self._skipped: dict[str, str] = {}  # by path: a folder may be listed more than once

    def entries(self, folder: str) -> tuple[list[os.DirEntry], list[os.DirEntry]]:
        """The folders and the files that are not skipped, both ordered by name."""
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
                    if is_hidden(entry.name):
                        self._skipped[entry.path] = entry.name
                    # os.path.isdir for links only: DirEntry.is_dir raises for one to itself.
                    elif os.path.isdir(entry.path) if link else entry.is_dir():
                        folders.append(entry)
                    else:
                        files.append(entry)
        except OSError as error:
            raise UserError(f"{self.root / folder} cannot be read: {error.strerror}") from None
        return folders, files

    def files(self, folder: str) -> Iterator[str]:
        """The path of every file below; an image name without a file behind it is a bad example."""
        yield from self._walk(folder, (self._real_root,))

    def skipped(self) -> str | None:
        """How many hidden and system files and folders were skipped; None if there were none."""
        names = Counter("._*" if n.startswith("._") else n for n in self._skipped.values())
        return f"hidden or system files and folders, skipped: {counted(names)}" if names else None

    def _walk(self, folder: str, above: tuple[str, ...]) -> Iterator[str]:
        real = self._resolve(os.path.join(self.root, folder))
        if real in above:
            raise UserError(f"{self.root / folder}: symbolic links form a loop: remove one")
        folders, files = self.entries(folder)
        for entry in files:
            if (
                not is_image(entry.name)
                or entry.is_file(follow_symlinks=False)
                or os.path.isfile(entry.path)
            ):
                yield os.path.join(folder, entry.name)
            else:
                self._bad.add(entry.path, "not a file: a symbolic link to nothing, or a device")
        for entry in folders:
            yield from self._walk(os.path.join(folder, entry.name), (*above, real))

    def _resolve(self, path: str) -> str:
        real = os.path.realpath(path)
        if not is_inside(real, self._real_root):
            raise UserError(
                f"{path} is a link to {real}, outside {self.root}: nothing outside the given "
                "directory is read. Put the files themselves there"
            )
        return real


def _as_utf8(name: str) -> str:
    """The name, with U+FFFD for what is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def is_inside(real: str, real_root: str) -> bool:
    """Whether a resolved path is a resolved folder or lies below it."""
    return real == real_root or real.startswith(os.path.join(real_root, ""))
