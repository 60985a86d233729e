"""A run whose ranks fail, leave and join, as its own notes tell it (elastic_notes.py).

The tests test_elastic.py, here and in tests/cluster, and the benchmark tests/benchmarks/chaos.py
share this.
"""

import contextlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.integration.elastic_notes import LOOP, ROOM, SITE, SLOW
from tests.integration.launching import ROOT

# 1294 digits in batches of 128: 11 steps an epoch, the last of them short.
GLOBAL_BATCH = 128
DIGITS = ["train", "--dataset", "digits", "--width", "4", "--global-batch-size", str(GLOBAL_BATCH)]
RESULT = re.compile(r"^\{$.*?^\}$", re.MULTILINE | re.DOTALL)
Note = dict[str, Any]


class Member(NamedTuple):
    """A process that trains: its rank in the newest world, and what its notes say of it."""

    rank: int
    pid: int
    agent: int
    host: str
    joined: bool


class Story:
    """The notes of all processes of a run. `room`: where they lie."""

    def __init__(self, room: Path):
        self.room = room
        room.mkdir(parents=True, exist_ok=True)
        (room / "sitecustomize.py").write_text(SITE)
        self._read: dict[Path, int] = {}
        self._notes: list[Note] = []

    @property
    def environ(self) -> dict[str, str]:
        """For the launcher."""
        return {"PYTHONPATH": f"{self.room}:{ROOT}", ROOM: str(self.room)}

    @property
    def notes(self) -> list[Note]:
        """All notes up to now."""
        for file in self.room.glob("notes-*"):
            with file.open("rb") as stream:
                stream.seek(self._read.get(file, 0))
                for line in stream.read().splitlines():
                    self._notes.append(json.loads(line))
                self._read[file] = stream.tell()
        return self._notes

    @property
    def step(self) -> int:
        """The last step that any rank has taken."""
        return max((note["step"] for note in self.notes if note["what"] == "done"), default=0)

    def worlds(self) -> list[list[Note]]:
        """The notes of each world, in the order in which worlds began; those of one in its time."""
        found = defaultdict(list)
        for note in sorted(self.notes, key=lambda note: note["at"]):
            found[note["world"]].append(note)
        return list(found.values())

    def members(self) -> list[Member]:
        """The ranks of the newest world that have begun."""
        found = {}
        for note in self.worlds()[-1] if self.notes else []:
            if note["what"] == "begins":
                who = Member(*(note[name] for name in Member._fields))
                found[who.rank] = who
        return [found[rank] for rank in sorted(found)]

    def trains(self, size: int) -> bool:
        """Whether the newest world has this size, and has taken a step."""
        newest = self.worlds()[-1] if self.notes else []
        return any(note["what"] == "done" and note["size"] == size for note in newest)

    def goes_on(self, without: Collection[int], after: float) -> bool:
        """Whether a world that began after this moment, without these processes, has taken a
        step."""
        newest = self.worlds()[-1] if self.notes else []
        took = any(note["what"] == "done" for note in newest)
        return took and newest[0]["at"] > after and not {m.pid for m in self.members()} & {*without}

    def __str__(self) -> str:
        """What became of each world."""
        rows = []
        for world in self.worlds():
            begun = sorted({(n["rank"], n["host"], n["step"]) for n in world if "bits" in n})
            done = [n for n in world if n["what"] == "done"]
            told = f"world {world[0]['world']} of {begun}"
            if done:
                told += f", first step {done[0]['at']:.1f}, to step {max(n['step'] for n in done)}"
            rows.append(f"{world[0]['at']:.1f} {told}")
        return "\n".join([*rows, f"{time.monotonic():.1f} now"])

    def slow(self, by_ms: int) -> None:
        """Have each pass take so much longer from now on, so that there is time for what comes."""
        self._tell(SLOW, by_ms)

    def hang(self, rank: int) -> None:
        """Have a rank hang in a callback of its next step."""
        self._tell(LOOP, rank)

    def _tell(self, file: str, number: int) -> None:
        (self.room / "new").write_text(str(number))
        (self.room / "new").rename(self.room / file)

    def problems(self, epochs: int, global_batch: int = GLOBAL_BATCH) -> list[str]:
        """What is wrong with a run that is over. What counted: each example once in each epoch, in
        as many steps as an undisturbed run takes."""
        counted: dict[int, list[Note]] = defaultdict(list)
        found, worlds = [], self.worlds()
        for number, world in enumerate(worlds):
            found += _wrong_beginning(number, world)
            start = min(note["step"] for note in world if note["what"] == "begins")
            counted = defaultdict(list, {s: rows for s, rows in counted.items() if s <= start})
            for note in world:
                if note["what"] == "pass":
                    counted[note["step"]].append(note)
        examples = worlds[0][0]["examples"]
        steps = epochs * -(-examples // global_batch)
        if sorted(counted) != [*range(1, steps + 1)]:
            missing = sorted({*range(1, steps + 1)} ^ {*counted})
            found.append(f"{len(counted)} steps counted, not {steps}: {missing[:10]}")
        return found + _not_once(counted, epochs, examples)


def _wrong_beginning(number: int, world: list[Note]) -> list[str]:
    """Whether the ranks of a world began it from different states, or not all did."""
    begun = [note for note in world if note["what"] == "begins"]
    what = f"world {number}, of {begun[0]['size']} rank(s) from step {begun[0]['step']}"
    found = []
    for name in ("step", "bits", "size", "examples"):
        if len({note[name] for note in begun}) > 1:
            values = sorted((note["rank"], note[name]) for note in begun)
            found.append(f"{what}: ranks differ in {name}: {values}")
    took = any(note["what"] == "done" for note in world)
    if took and {note["rank"] for note in begun} != {*range(begun[0]["size"])}:
        found.append(f"{what}: only ranks {sorted({note['rank'] for note in begun})} have begun")
    return found


def _not_once(counted: dict[int, list[Note]], epochs: int, examples: int) -> list[str]:
    """Examples that are missing, or that came again, in each epoch."""
    found = []
    seen: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for notes in counted.values():
        for note in notes:
            for index in note["ids"]:
                seen[note["epoch"]][index] += 1
    for epoch in range(epochs):
        missing = [index for index in range(examples) if not seen[epoch][index]]
        again = [index for index, times in seen[epoch].items() if times > 1]
        if missing or again:
            found.append(f"epoch {epoch}: {len(missing)} missing, {len(again)} more than once")
    strange = sorted({*seen} - {*range(epochs)})
    return found + ([f"epochs {strange}"] if strange else [])


def results(text: str) -> list[dict[str, Any]]:
    """What `--json` has printed."""
    return [json.loads(found) for found in RESULT.findall(text)]


@contextlib.contextmanager
def shown(story: Story, text: Callable[[], str]) -> Iterator[None]:
    """A block whose failure shows what every rank has said and what became of each world."""
    try:
        yield
    except (AssertionError, TimeoutError) as error:
        raise AssertionError(f"{error}\n{text()}\n{story}") from error
