"""What the name of a file or folder says: an image that is read, one that is not, or no example.

The one list of suffixes, for folders, tables and `predict`. Imports nothing of the application.
"""

import os
from collections.abc import Mapping

# Suffixes of what TensorFlow decodes. The content decides in the end: a file may lie.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"),  # all JPEG
    *(".png", ".apng", ".gif", ".bmp", ".dib", ".webp"),
)
# Suffixes of images that TensorFlow does not decode: counted, named, and left out.
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".heics", ".heifs", ".avif", ".avifs", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".jxl", ".jxr", ".wdp", ".hdp", ".qoi"),
    *(".psd", ".psb", ".xcf", ".kra", ".eps", ".svg", ".svgz", ".wmf", ".emf"),
    *(".ico", ".cur", ".icns", ".tga", ".pcx", ".pnm", ".ppm", ".pgm", ".pbm", ".pfm", ".pam"),
    *(".exr", ".hdr", ".dds", ".ras", ".sgi", ".xbm", ".xpm", ".dcm", ".dicom"),
    *(".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".orf"),
    *(".rw2", ".rwl", ".raf", ".pef", ".srw", ".3fr", ".x3f", ".erf", ".kdc", ".dcr", ".mrw"),
)
# What systems and viewers leave among files, in lower case: thumbnails, recycle bins, caches.
SYSTEM_NAMES = frozenset(
    (
        *("@eadir", "@tmp", "@__thumb", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
        *("__macosx", "$recycle.bin", "system volume information", "lost+found"),
        *(".thumbnails", ".ipynb_checkpoints", ".ds_store", ".appledouble", ".trashes"),
        *("__pycache__", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
    )
)
NOT_READ = "which TensorFlow does not read: convert to JPEG or PNG"


def is_image(name: str) -> bool:
    """Whether a file is named like an image that is read."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_unread(name: str) -> bool:
    """Whether a file is named like an image of a format that is not read."""
    return name.lower().endswith(UNREAD_SUFFIXES)


def is_system(name: str) -> bool:
    """Whether a file or folder belongs to the system or a viewer: never an example.

    Names with "._" are what macOS keeps of a file on other file systems (AppleDouble).
    """
    return name.lower() in SYSTEM_NAMES or name.startswith("._")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is skipped when listing: a system one, or one with a leading dot,
    such as .ipynb_checkpoints and .thumbnails."""
    return name.startswith(".") or is_system(name)


def suffix_of(name: str) -> str:
    """The suffix in lower case, or "(no suffix)": what files are counted by in messages."""
    return os.path.splitext(name)[1].lower() or "(no suffix)"


def counted(counts: Mapping[str, int], most: int = 6) -> str:
    """`12 .heic, 3 .tif`: the most frequent first, and how many kinds more there are."""
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    more = [f"{len(ordered) - most} kinds more"] if len(ordered) > most else []
    return ", ".join([f"{count:,} {name}" for name, count in ordered[:most]] + more)
