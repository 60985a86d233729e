"""What each part of the project may know."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.distributed.launcher import LAUNCHERS

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = sorted([*REPOSITORY.glob("app/**/*.py"), *REPOSITORY.glob("models/**/*.py")])


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, and every text that could be imported by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__")
        ):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def importers(*packages: str) -> set[str]:
    """The files that import one of the packages."""
    return {
        path.relative_to(REPOSITORY).as_posix()
        for path in SOURCES
        if any(name.partition(".")[0] in packages for name in imports(path))
    }


def test_only_the_world_imports_horovod() -> None:
    assert importers("horovod") == {"app/distributed/horovod_world.py"}


def test_models_import_neither_the_application_nor_horovod() -> None:
    found = importers("app", "horovod")
    assert any(path.startswith("app/") for path in found)
    assert not any(path.startswith("models/") for path in found)


def test_imports_are_absolute() -> None:
    relative = [path for path in SOURCES if any(name.startswith(".") for name in imports(path))]
    assert relative == []


# Rooms that get plain numbers and plain plans, and are the same for any number of workers.
LOCAL = [
    *("app/data", "app/checkpoints", "app/learning", "models"),
    *("app/classifier.py", "app/state.py", "app/distributed/fingerprints.py"),
]


def sources_of(room: str) -> list[Path]:
    place = REPOSITORY / room
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


@pytest.mark.parametrize("room", LOCAL)
def test_what_learns_and_keeps_does_not_import_what_knows_workers(room: str) -> None:
    names = [name for path in sources_of(room) for name in imports(path)]
    assert names
    assert not [name for name in names if name.startswith("app.distributed")]


def collectives() -> set[str]:
    """The methods of a World; `sum` and `size_tensor` count only on something called a world."""
    tree = ast.parse((REPOSITORY / "app/distributed/world.py").read_text(encoding="utf-8"))
    (world,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "World")
    return {n.name for n in world.body if isinstance(n, ast.FunctionDef)} - {
        "is_chief",
        "described",
    }


# Of NumPy, TensorFlow and others too; a call counts unless it is on one of these.
OTHERS = {"gather": {"tf"}, "timeline": set()}


def collective_calls(source: str) -> list[str]:
    """Calls of what only a world can do, and whatever is called a world."""
    names, found = collectives() - {"sum", "size_tensor"}, []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, method = ast.unparse(node.func.value), node.func.attr
            if method in names and owner not in OTHERS.get(method, set()):
                found.append(f"{owner}.{method}()")
        elif isinstance(node, ast.Name | ast.arg):
            name = node.id if isinstance(node, ast.Name) else node.arg
            found += [name] if name in ("world", "hvd") else []
        elif isinstance(node, ast.Attribute) and node.attr in ("world", "_world"):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("room", LOCAL)
def test_what_learns_and_keeps_calls_no_collective(room: str) -> None:
    found = {path.name: collective_calls(path.read_text("utf-8")) for path in sources_of(room)}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "ranks.gather(rows)",
        "with them.together(): pass",
        "chief.from_chief(lambda: 1)",
        "self.exchange.allreduce(gradient, 'x')",
        "def survey(dataset, world): pass",
        "total = world.sum(values)",
        "self.world.barrier()",
    ],
)
def test_a_planted_collective_is_found(planted: str) -> None:
    assert {"gather", "together", "from_chief", "sum", "allreduce", "barrier"} <= collectives()
    assert collective_calls(planted)
    assert not collective_calls("tf.gather(values, rows); values.sum(); np.sum(values)")


def python(code: str) -> subprocess.CompletedProcess:
    """Run code in a fresh process at the top of the repository, started by no launcher."""
    launchers = {name for _, *names in LAUNCHERS for name in names}
    clean = {name: value for name, value in os.environ.items() if name not in launchers}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**clean, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_line_answers_a_mistake_without_tensorflow() -> None:
    result = python(
        "import sys, app.config, app.__main__\n"
        "code = app.__main__.main(['train', '--epochs', 'many'])\n"
        "heavy = {'tensorflow', 'keras', 'horovod', 'sklearn'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: --epochs: ")


def test_the_doctor_needs_no_package_and_no_new_python() -> None:
    """Its annotations are never evaluated, so that it also reports a Python that is too old."""
    result = python(
        "import sys\n"
        "sys.path = [path for path in sys.path if 'site-packages' not in path]\n"
        "from app.commands.command_line import parse\n"
        "parse(['doctor'])\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('app.')), sep='\\n')"
    )
    assert result.returncode == 0, result.stderr
    texts = {path: Path(path).read_text("utf-8") for path in result.stdout.splitlines()}
    assert len(texts) > 10
    late = {path for path, text in texts.items() if "\nfrom __future__ import annotations" in text}
    functions = {path for path, text in texts.items() if "\ndef " in text}
    assert functions - late == {str(REPOSITORY / "app/distributed/__init__.py")}


WITHOUT_HOROVOD = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "horovod":
            raise ImportError("horovod is blocked")

sys.meta_path.insert(0, Blocker())
"""


def test_without_horovod_one_rank_works_and_several_are_told_who_started_them() -> None:
    files = sorted((REPOSITORY / "app").rglob("*.py"))
    parts = [path.relative_to(REPOSITORY).with_suffix("").parts for path in files]
    modules = [".".join(part for part in module if part != "__init__") for module in parts]
    result = python(
        WITHOUT_HOROVOD + "import importlib, os\n"
        f"for module in {modules!r}: importlib.import_module(module)\n"
        "from app.distributed import connect\n"
        "from app.errors import UserError\n"
        "world = connect()\n"
        "print(type(world).__name__, world.size)\n"
        "os.environ.update(OMPI_COMM_WORLD_RANK='0', OMPI_COMM_WORLD_SIZE='2')\n"
        "try: connect()\n"
        "except UserError as error: print(error)\n"
        "assert 'horovod' not in sys.modules\n"
    )
    assert result.returncode == 0, result.stderr
    alone, message = result.stdout.splitlines()
    assert alone == "World 1"
    assert message.startswith("Open MPI started 2 ranks, but Horovod cannot be imported")
    assert "horovod is blocked" in message and "make setup" in message
