"""Real data that needs no download: handwritten digits and Python's own documentation.

Knows scikit-learn, the standard library and `examples`; nothing of TensorFlow or workers.
"""

import ast
import gc
import platform
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from app.data.examples import Dataset, Examples, stratified_split
from app.data.heads import Head
from app.errors import suggest

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
AREA, KIND = "area", "kind"  # the labels of pydocs
KINDS = ("module", "class", "function", "method")
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
    whole = Dataset("digits", "image", tuple("0123456789"), examples)
    return _train_and_test(whole, examples.labels)


def pydocs(library: Path | None = None, labels: Sequence[str] = (AREA,)) -> Dataset:
    """The docstrings of Python's standard library, labelled by the area that they document.

    Modules, classes and functions; white space normalised, at least 4 words, every text once.
    7 classes, about 5,300 texts on CPython 3.11. 80% train and 20% test, the same for the same
    interpreter, whatever the labels; no validation split. The interpreter's version is the
    dataset's.

    Args:
        library: the folder with the library's source files; None for the running Python's.
        labels: "area", "kind" (what is documented: a module, a class, a function, a method), or
            both.

    Raises:
        ValueError: the library has no source files, or none with docstrings for some area; or there
            is no such label.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    areas = tuple(MODULES_BY_AREA)
    class_names = {AREA: areas, KIND: KINDS}
    if unknown := [label for label in labels if label not in class_names]:
        raise ValueError(f"pydocs has no label '{unknown[0]}': {suggest(unknown[0], class_names)}")
    if len(set(labels)) < len(labels):
        raise ValueError(f"pydocs: {', '.join(labels)} names a label twice")
    labels_by_text: dict[str, tuple[int, int]] = {}
    # A syntax tree is many objects; each sets off collections that search all of TensorFlow's too.
    gc.freeze()
    try:
        for path in _source_files(library):
            area = AREA_BY_MODULE[path.relative_to(library).parts[0].removesuffix(".py")]
            for docstring, kind in _docstrings(path):
                words = docstring.split()
                if len(words) >= MIN_WORDS:
                    # A text found twice, in one area or two, counts where it is found first.
                    found = areas.index(area), KINDS.index(kind)
                    labels_by_text.setdefault(" ".join(words), found)
    finally:
        gc.unfreeze()

    present = {area for area, _ in labels_by_text.values()}
    missing = [area for label, area in enumerate(areas) if label not in present]
    if missing:
        raise ValueError(
            f"pydocs: no docstrings about {', '.join(missing)} in {library}; the source files "
            "(*.py) of Python's standard library are missing there, as in a stripped or minimal "
            "Python. Install the whole of Python, or choose another dataset."
        )
    texts = np.array(list(labels_by_text), dtype=object)
    every = np.array(list(labels_by_text.values()), dtype=np.int64)
    columns = [list(class_names).index(label) for label in labels]
    heads = tuple(Head(label, class_names[label]) for label in labels)
    whole = Dataset(
        "pydocs",
        "text",
        heads[0].class_names,
        Examples(texts, every[:, columns] if len(columns) > 1 else every[:, columns[0]]),
        version=f"{platform.python_implementation()} {platform.python_version()}",
        heads=heads if len(heads) > 1 else (),
    )
    return _train_and_test(whole, every[:, 0])


def _train_and_test(whole: Dataset, classes: np.ndarray) -> Dataset:
    """The training split parted in two, the same share of each of the classes."""
    train, test = stratified_split(classes, TEST_SHARE, SPLIT_SEED)
    return whole.with_splits({"train": whole.train.take(train), "test": whole.train.take(test)})


def _source_files(library: Path) -> list[Path]:
    """The source files of the modules of the table, in the same order on every machine."""
    files: list[Path] = []
    for module in AREA_BY_MODULE:
        for path in [library / f"{module}.py", *(library / module).rglob("*.py")]:
            folders = path.relative_to(library).parts[:-1]
            if path.is_file() and not SKIPPED_FOLDERS.intersection(folders):
                files.append(path)
    return sorted(files, key=lambda path: path.relative_to(library).as_posix())


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """The docstrings of a source file from top to bottom, each with what it documents, one of
    `KINDS`; none if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules are not ours to tell
            module = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError):  # ValueError: a null byte, before Python 3.12
        return
    # A function is a method where it stands in the body of a class, also under an `if` there.
    pending: list[tuple[ast.AST, str]] = [(module, "function")]
    while pending:
        node, kind_of_function = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield docstring, _kind(node, kind_of_function)
            kind_of_function = "method" if isinstance(node, ast.ClassDef) else "function"
        # Statements hold definitions, expressions hold none: half the time of ast.walk.
        inner = (ast.stmt, ast.excepthandler, ast.match_case)
        pending += reversed(
            [(n, kind_of_function) for n in ast.iter_child_nodes(node) if isinstance(n, inner)]
        )


def _kind(node: ast.AST, kind_of_function: str) -> str:
    if isinstance(node, ast.Module):
        return "module"
    return "class" if isinstance(node, ast.ClassDef) else kind_of_function
