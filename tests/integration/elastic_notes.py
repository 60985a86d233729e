"""What every rank of a watched run notes down of itself, step by step, before and after each.

Runs in the ranks: `SITE`, as sitecustomize.py on PYTHONPATH, has `note` change `app.loop.Loop` as
soon as that is imported. Each process appends lines of JSON to a file of its own, whole lines at
once, so that nothing is lost with a process that is killed.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from app.elastic.door import DOOR
from app.pulse import PULSE
from app.state import SAVED

ROOM = "LOCKSTEP_NOTES"  # the directory of the notes; the launcher hands on such variables
# Files in the room: how many ms longer each pass takes; the rank that is to hang in a callback (it
# takes the file away).
SLOW, LOOP = "slow", "loop"
SITE = """
import os, sys
if "LOCKSTEP_NOTES" in os.environ:
    import importlib.abc, importlib.util

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name != "app.loop":
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                from tests.integration.elastic_notes import note
                note(module.Loop)

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder())
"""


class Notes:
    """This process's file. A world is known by its number and by the port where its ranks met."""

    def __init__(self, room: Path):
        self._room = room
        path = room / f"notes-{os.getpid()}-{time.monotonic_ns()}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._world: dict[str, Any] = {}
        self.share: Any = None  # of the pass that comes

    def write(self, what: str, **values: Any) -> None:
        """Add a line."""
        about = {"what": what, "at": time.monotonic(), **self._world, **values}
        os.write(self._file, json.dumps(about).encode() + b"\n")

    def begins(self, loop: Any) -> None:
        """A world begins for this rank."""
        port = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_PORT", "")
        self._world = {
            "world": f"{port}/{DOOR.world}",
            "rank": loop.world.rank,
            "size": loop.world.size,
            "pid": os.getpid(),
            "agent": _agent(),
            "host": os.environ.get("HOROVOD_HOSTNAME", ""),
        }
        digest = hashlib.sha256()
        for entry in loop.state.entries:
            if entry.kind in SAVED:
                digest.update(np.asarray(entry.variable.numpy()).tobytes())
        examples = len(loop.splits["train"])
        about = {"bits": digest.hexdigest(), "examples": examples, "joined": DOOR.joins}
        self.write("begins", step=loop.state.step, **about)

    def passes(self, loop: Any) -> None:
        """A pass is about to begin."""
        ids = [int(index) for index in self.share.indices]
        self.write("pass", step=loop.state.step + 1, epoch=loop.state.epoch, ids=ids)
        time.sleep(int(self._told(SLOW) or 0) / 1000)
        if self._told(LOOP) == str(loop.world.rank):
            (self._room / LOOP).unlink()
            self.write("hangs")
            PULSE.enter("callbacks")
            while True:
                time.sleep(0.01)

    def _told(self, name: str) -> str:
        try:
            return (self._room / name).read_text()
        except FileNotFoundError:
            return ""


def _agent() -> int:
    """The process that has started this one, perhaps by way of one that forks ranks; 0: none."""
    above = psutil.Process().parents()
    return next((one.pid for one in above if "launch.rank" in one.cmdline()), 0)


def note(loop_class: Any) -> None:
    """Have each loop of this process write notes."""
    notes = Notes(Path(os.environ[ROOM]))
    batches = loop_class._batches

    def batches_of(loop: Any) -> Iterator[Any]:
        state = loop.state
        plan = loop._epochs.plan(state.seed, state.epoch, state.examples_seen)
        shares = plan.shares(loop.world.rank)
        for notes.share, batch in zip(shares, batches(loop), strict=True):
            yield batch

    def before(name: str, hook: Callable[[Any], None]) -> None:
        original = getattr(loop_class, name)

        def changed(loop: Any, *arguments: Any, **options: Any) -> Any:
            hook(loop)
            return original(loop, *arguments, **options)

        setattr(loop_class, name, changed)

    def after(name: str, hook: Callable[[Any], None]) -> None:
        original = getattr(loop_class, name)

        def changed(loop: Any, *arguments: Any, **options: Any) -> Any:
            result = original(loop, *arguments, **options)
            hook(loop)
            return result

        setattr(loop_class, name, changed)

    loop_class._batches = batches_of
    before("run", notes.begins)
    after("_go_on_with_others", notes.begins)
    before("_pass", notes.passes)
    after("_pass", lambda loop: notes.write("done", step=loop.state.step + 1))
