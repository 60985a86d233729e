"""Runs with parameter servers whose workers are watched, and slowed down, by the test.

`SITE`, as sitecustomize.py on PYTHONPATH, has `change` change `Worker` as soon as that is imported,
and `Loop`, so that ranks over Horovod can be slowed down in the same way. The tests here and in
tests/cluster, and the benchmark tests/benchmarks/asynchronous.py, share this.
"""

import os
import time
from pathlib import Path
from typing import Any

from tests.integration.launching import ROOT

ROOM = "LOCKSTEP_SERVING"  # a directory; the launcher hands on such variables
SITE = """
import os, sys
if "LOCKSTEP_SERVING" in os.environ:
    import importlib.abc, importlib.util

    class Finder(importlib.abc.MetaPathFinder):
        wanted = ["app.parameter_servers.serve", "app.loop"]

        def find_spec(self, name, path, target=None):
            if name not in self.wanted:
                return None
            self.wanted.remove(name)
            spec = importlib.util.find_spec(name)
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                from tests.integration import serving
                serving.change(module)

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder())
"""


def change(module: Any) -> None:
    """What has been imported just now."""
    if hasattr(module, "Worker"):
        _watch(module.Worker)
    else:
        _slow_ranks(module.Loop)


def _slow_ranks(loop: Any) -> None:
    take, room = loop._pass, Path(os.environ[ROOM])

    def slowed(self, *arguments):
        _sleep(room, self.world.rank)
        return take(self, *arguments)

    loop._pass = slowed


def _sleep(room: Path, number: int) -> None:
    for name in (f"slow-{number}", "slow"):
        if (file := room / name).exists():
            time.sleep(float(file.read_text()) / 1000)
            return


def _watch(worker: Any) -> None:
    """Have workers write who they are, and take longer for each batch than they would."""
    room = Path(os.environ[ROOM])
    create, batch = worker.__init__, worker.batch

    def created(self, task):
        create(self, task)
        own = room / f"worker-{task.index}"
        part = own.with_suffix(f".{os.getpid()}")
        part.write_text(str(os.getpid()))
        part.rename(own)

    def slowed(self, *arguments):
        made = batch(self, *arguments)
        _sleep(room, self._task.index)
        return made

    worker.__init__, worker.batch = created, slowed


class Room:
    """Where a test and the workers of its run meet."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sitecustomize.py").write_text(SITE)

    @property
    def environ(self) -> dict[str, str]:
        """For the launcher."""
        return {"PYTHONPATH": f"{self.folder}:{ROOT}", ROOM: str(self.folder)}

    def pid(self, worker: int) -> int | None:
        """The process that a worker has now, or had last; None if it was never there."""
        file = self.folder / f"worker-{worker}"
        return int(file.read_text()) if file.exists() else None

    def slow(self, milliseconds: float, worker: int | None = None) -> None:
        """Let each batch take so much longer, of all workers or of one."""
        name = "slow" if worker is None else f"slow-{worker}"
        (self.folder / f".{name}").write_text(str(milliseconds))
        (self.folder / f".{name}").rename(self.folder / name)
