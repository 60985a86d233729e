"""What collectives between these ranks take, measured; see `python -m app network`."""

import dataclasses
import functools
import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from app.advice.model import Curve, Line, Measured, fit_line
from app.distributed.world import World

KINDS = ("allreduce", "allgather", "alltoall")
SMALLEST, FACTOR = 1024, 4  # bytes; each size is so many times the one before
FEWEST, MOST = 3, 25  # repeats
WARM_UP = 2
ADDED_BYTES = 16_000_000


class Point(NamedTuple):
    """A collective to which each of `ranks` hands `size` bytes; `seconds` is the median over the
    repeats of the slowest rank's time, `busy` the mean time for which it took all of its cores."""

    kind: str
    size: int
    seconds: float
    repeats: int
    busy: float

    def bus_share(self, ranks: int) -> float:
        """Bytes that a rank must send for each byte it hands in, at the least."""
        shares = {"allreduce": 2 * (ranks - 1) / ranks, "allgather": ranks - 1.0}
        return shares.get(self.kind, (ranks - 1) / ranks)


@dataclasses.dataclass(frozen=True)
class Part:
    """Some ranks that were measured: "all", those of the chief's host ("local"), or one of each
    host ("across", while those beside them do the same)."""

    name: str
    ranks: int
    points: Sequence[Point]
    lines: dict[str, Line]
    busy_lines: dict[str, Line]

    @property
    def curves(self) -> dict[str, Curve]:
        """What each kind of collective takes."""
        found = {}
        for kind, line in self.lines.items():
            own = [point for point in self.points if point.kind == kind]
            found[kind] = Curve(line, [one.size for one in own], [one.seconds for one in own])
        return found


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured: the host of each rank, the parts, and how fast the slowest rank adds up
    float32 numbers, in seconds per byte of the sum."""

    hosts: Sequence[str]
    backend: str
    parts: Sequence[Part]
    reduce_s_per_byte: float

    @property
    def network(self) -> Measured:
        """For predictions."""
        found = {p.name: Measured(p.ranks, p.curves, p.busy_lines) for p in self.parts}
        if "local" not in found:
            return found["all"]
        return dataclasses.replace(found["all"], parts=(found["local"], found["across"]))


def measure(world: World, most_bytes: int, budget_s: float) -> Measurement:
    """Measure all ranks and, on several hosts of equally many ranks, inside and between hosts; a
    collective. `budget_s`: about so long for each kind of collective."""
    hosts = world.gather(socket.gethostname())
    parts = [measure_part("all", world, most_bytes, budget_s)]
    if has_levels(hosts):
        for name, some in zip(("local", "across"), world.by_host(), strict=True):
            parts.append(measure_part(name, some, most_bytes, budget_s))
            world.barrier()
    added = max(world.gather(seconds_to_add()))
    return Measurement(hosts, world.backend, parts, added / ADDED_BYTES)


def has_levels(hosts: Sequence[str]) -> bool:
    """Whether there are several hosts of several ranks, equally many on each."""
    counts = [list(hosts).count(host) for host in set(hosts)]
    return len(counts) > 1 and len(set(counts)) == 1 and counts[0] > 1


def measure_part(name: str, world: World, most_bytes: int, budget_s: float) -> Part:
    """Measure all kinds between the ranks of a world; a collective of these."""
    points = [point for kind in KINDS for point in _measure_kind(world, kind, most_bytes, budget_s)]
    lines, busy = {}, {}
    for kind in KINDS:
        own = [point for point in points if point.kind == kind]
        sizes = [one.size for one in own]
        lines[kind] = fit_line(sizes, [one.seconds for one in own])
        busy[kind] = fit_line(sizes, [max(1e-9, one.busy) for one in own])
    return Part(name, world.size, points, lines, busy)


def _measure_kind(world: World, kind: str, most_bytes: int, budget_s: float) -> list[Point]:
    """All sizes up to the largest for which there is time. No rank decides on its own clock."""
    call = _call(world, kind)
    points: list[Point] = []
    spent, size = 0.0, SMALLEST
    # What a rank receives of an allgather counts against the largest size too.
    while size * (world.size if kind == "allgather" else 1) <= most_bytes or not points:
        expected = points[-1].seconds * FACTOR if len(points) > 1 else 0.0
        if spent + expected * (FEWEST + WARM_UP) > budget_s:
            break
        repeats = MOST if not expected else int(np.clip(budget_s / 10 / expected, FEWEST, MOST))
        work = functools.partial(call, _content(world, kind, size))
        seconds, busy = _repeat(world, work, repeats)
        points.append(Point(kind, size, statistics.median(seconds), repeats, busy))
        spent += sum(seconds)
        size *= FACTOR
    return points


def _content(world: World, kind: str, size: int) -> tf.Tensor:
    """float32 numbers of about so many bytes, as the collective takes them."""
    elements = max(1, size // 4)
    if kind == "alltoall":
        return tf.ones([world.size, max(1, elements // world.size)])
    return tf.ones([elements])


def _call(world: World, kind: str) -> Callable[[tf.Tensor], Any]:
    """The collective in a graph, as steps call it; gives one number, so that little is copied."""
    rank = 2 if kind == "alltoall" else 1
    collective, name = getattr(world, kind), f"advice.{kind}"

    def run(content: tf.Tensor) -> tf.Tensor:
        return tf.reshape(collective(content, name), [-1])[0]

    spec = tf.TensorSpec([None] * rank, tf.float32)
    return tf.function(run, input_signature=[spec], autograph=False)


def _repeat(world: World, work: Callable[[], Any], repeats: int) -> tuple[list[float], float]:
    """(seconds of each repeat, mean seconds of all cores) of the slowest rank, the same numbers on
    every rank."""
    for _ in range(WARM_UP):
        work().numpy()
    own, used = [], time.process_time()
    for _ in range(repeats):
        began = time.perf_counter()
        work().numpy()
        own.append(time.perf_counter() - began)
    used = (time.process_time() - used) / repeats / len(os.sched_getaffinity(0))
    if tf.config.get_visible_devices("GPU"):  # which computes while the cores exchange
        used = 0.0
    *slowest, busy = np.max(world.gather([*own, used]), axis=0).tolist()
    return slowest, busy


def seconds_to_add() -> float:
    """How long this rank takes to add up `ADDED_BYTES` of float32."""
    left, right = tf.ones([ADDED_BYTES // 4]), tf.ones([ADDED_BYTES // 4])
    times = []
    for _ in range(5):
        began = time.perf_counter()
        (left + right)[:1].numpy()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
