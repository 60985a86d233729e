"""Real data that needs no download: handwritten digits and Python's own documentation.

Knows scikit-learn, the standard library and `examples`; nothing of TensorFlow or workers.
"""

import ast
import gc
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from app.data.examples import Dataset, Examples, stratified_split

TEST_SHARE = 0.2
SPLIT_SEED = 2018  # fixed: the test split is part of what the dataset is
MIN_WORDS = 4

# Modules and packages by what their documentation is about; those that a Python does not have are
# skipped. Left out: the language itself (typing, enum, collections, functools...), user
# interfaces, and `encodings`, whose docstrings are one sentence with the name of a code page.
MODULES_BY_AREA = {
    "networking and web": """
        asynchat asyncore cgi cgitb ftplib http imaplib ipaddress nntplib nturl2path poplib smtpd
        smtplib socket socketserver ssl telnetlib urllib webbrowser wsgiref xmlrpc""",
    "files and archives": """
        _compression _pyio bz2 compression dbm filecmp fileinput fnmatch genericpath glob gzip io
        linecache lzma ntpath os pathlib posixpath shelve shutil stat tarfile tempfile zipfile""",
    "concurrency": """
        _threading_local asyncio concurrent contextvars multiprocessing queue sched selectors
        signal subprocess threading""",
    "numbers and dates": """
        _pydatetime _pydecimal _pylong _strptime calendar colorsys datetime decimal fractions
        numbers random secrets statistics zoneinfo""",
    "testing and debugging": """
        bdb cProfile code codeop dis doctest faulthandler inspect logging pdb profile pstats pyclbr
        pydoc symtable timeit trace traceback tracemalloc unittest warnings""",
    "text and data formats": """
        _markupbase base64 codecs configparser csv difflib email gettext html json locale mailbox
        netrc pickle pickletools plistlib pprint quopri re shlex sre_compile sre_constants
        sre_parse string stringprep struct textwrap tomllib uu xdrlib xml""",
    "importing and packaging": """
        compileall distutils ensurepip imp importlib modulefinder pkgutil py_compile runpy site
        sysconfig venv zipapp zipimport""",
}
AREA_BY_MODULE = {
    module: area for area, modules in MODULES_BY_AREA.items() for module in modules.split()
}
SKIPPED_FOLDERS = {"__pycache__", "idlelib", "lib2to3", "site-packages", "test", "tests", "tkinter"}


def digits() -> Dataset:
    """Scikit-learn's 1,797 handwritten digits: uint8 images `(n, 8, 8, 1)`, 10 classes.

    The 16 grey levels are spread over 0 to 255. 80% train and 20% test, always the same; no
    validation split.
    """
    from sklearn.datasets import load_digits  # takes a second to import; the texts do without

    bunch = load_digits()
    images = np.round(bunch.images[..., None] * (255 / 16)).astype(np.uint8)
    examples = Examples(images, bunch.target.astype(np.int64))
    return _train_and_test("digits", "image", tuple("0123456789"), examples)


def pydocs(library: Path | None = None) -> Dataset:
    """The docstrings of Python's standard library, labelled by the area that they document.

    Modules, classes and functions; white space normalised, at least 4 words, every text once.
    7 classes, about 5,300 texts on CPython 3.11. 80% train and 20% test, the same for the same
    interpreter; no validation split. The interpreter's version is the dataset's.

    Args:
        library: the folder with the library's source files; None for the running Python's.

    Raises:
        ValueError: the library has no source files, or none with docstrings for some area.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    areas = tuple(MODULES_BY_AREA)
    label_by_text: dict[str, int] = {}
    # A syntax tree is many objects; each sets off collections that search all of TensorFlow's too.
    gc.freeze()
    try:
        for path in _source_files(library):
            area = AREA_BY_MODULE[path.relative_to(library).parts[0].removesuffix(".py")]
            for docstring in _docstrings(path):
                words = docstring.split()
                if len(words) >= MIN_WORDS:
                    # A text found twice, in one area or two, counts where it is found first.
                    label_by_text.setdefault(" ".join(words), areas.index(area))
    finally:
        gc.unfreeze()

    found = set(label_by_text.values())
    missing = [area for label, area in enumerate(areas) if label not in found]
    if missing:
        raise ValueError(
            f"pydocs: no docstrings about {', '.join(missing)} in {library}; the source files "
            "(*.py) of Python's standard library are missing there, as in a stripped or minimal "
            "Python. Install the whole of Python, or choose another dataset."
        )
    texts = np.array(list(label_by_text), dtype=object)
    labels = np.array(list(label_by_text.values()), dtype=np.int64)
    version = f"{platform.python_implementation()} {platform.python_version()}"
    return _train_and_test("pydocs", "text", areas, Examples(texts, labels), version)


def _train_and_test(
    name: str,
    kind: Literal["image", "text"],
    class_names: tuple[str, ...],
    examples: Examples,
    version: str = "",
) -> Dataset:
    train, test = stratified_split(examples.labels, TEST_SHARE, SPLIT_SEED)
    return Dataset(
        name, kind, class_names, examples.take(train), None, examples.take(test), version
    )


def _source_files(library: Path) -> list[Path]:
    """The source files of the modules of the table, in the same order on every machine."""
    files: list[Path] = []
    for module in AREA_BY_MODULE:
        for path in [library / f"{module}.py", *(library / module).rglob("*.py")]:
            folders = path.relative_to(library).parts[:-1]
            if path.is_file() and not SKIPPED_FOLDERS.intersection(folders):
                files.append(path)
    return sorted(files, key=lambda path: path.relative_to(library).as_posix())


def _docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a source file from top to bottom; none if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules are not ours to tell
            module = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError):  # ValueError: a null byte, before Python 3.12
        return
    pending: list[ast.AST] = [module]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield docstring
        # Statements hold definitions, expressions hold none: half the time of ast.walk.
        inner = (ast.stmt, ast.excepthandler, ast.match_case)
        pending += reversed([n for n in ast.iter_child_nodes(node) if isinstance(n, inner)])
