"""Steps and codecs of a real model, timed on all ranks at the same time."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from app.advice.model import Line
from app.build import build_classifier, build_feed, build_optimizer, build_schedule
from app.config import Config
from app.data.batches import Batch, spec_of
from app.data.heads import strata
from app.data.order import orders_of
from app.distributed.options import Wire
from app.distributed.reducers import COMPRESSIONS, MOST_RANKS_OF_INT8, make_reducer
from app.distributed.strategies import WITH_ROUNDS
from app.distributed.world import World
from app.epochs import Epochs
from app.load import LoadedData

LIMITS = {"int8": MOST_RANKS_OF_INT8}
MOST_BATCHES = 16  # kept, and taken in turns
CHUNK_S = 0.25  # steps that are timed together take at least so long
FEWEST_CHUNKS = 3


class Computing(NamedTuple):
    """Seconds of a step without exchange, on the slowest rank; and what is waited beside that for
    whichever rank is the slowest just then, by the number of steps after which all wait."""

    seconds: float
    waits_s: dict[int, float]


class Timed(NamedTuple):
    """Seconds of a step on the slowest rank (median), and the bytes that a rank sent per step."""

    seconds: float
    sent_bytes: float


def with_choice(config: Config, compression: str, sync: str, steps: int) -> Config:
    """The same run, with another way to communicate from its first step on."""
    rounds = steps if sync in WITH_ROUNDS and steps > 1 else None
    changes = {
        "compression": compression,
        "sync": sync,
        "sync_every_steps": rounds,
        "compress_from_epoch": 0.0,
        "sync_from_epoch": 0.0,
        "local_epochs": None,
    }
    wanted = config.distribution.model_copy(update=changes)
    return config.model_copy(update={"distribution": wanted})


def shapes_of(config: Config, data: LoadedData) -> list[tuple[int, ...]]:
    """Of the model's trainable variables."""
    classifier = build_classifier(config, data.plan)
    return [tuple(variable.shape) for variable in classifier.trainable_variables]


class Steps:
    """Training steps with real batches, that can be timed; a collective of `world`.

    `exchange`: the ranks between which gradients travel: `world`, or a `World()` of one on each
    rank for what a step takes without; a BatchNorm of all ranks counts as computing. Raises
    UserError or ValueError for a config that is refused.
    """

    def __init__(self, config: Config, data: LoadedData, world: World, exchange: World):
        classifier = build_classifier(config, data.plan, data.splits["train"].labels, world)
        self.optimizer = build_optimizer(config, build_schedule(config, world.size), exchange)
        classifier.compile(self.optimizer)
        self.optimizer.build(classifier.trainable_variables)
        self.optimizer.settles = True
        self.passes = config.training.backward_passes_per_step
        self._step = _step_of(classifier, self.optimizer)
        self._batches = _first_batches(config, data, world, classifier)
        self._position = 0
        for _ in self._batches:  # every shape is traced
            self._run(1)

    @property
    def taken(self) -> int:
        """How many there were; `_first_batches` has those of whole steps."""
        return self._position // self.passes

    def take(self, steps: int) -> float:
        """The seconds that so many steps take."""
        return self._run(steps * self.passes)

    def _run(self, passes: int) -> float:
        began = time.perf_counter()
        for _ in range(passes):
            heard = self._step(self._batches[self._position % len(self._batches)])
            self._position += 1
        heard.numpy()
        return time.perf_counter() - began


def time_computing(
    config: Config, data: LoadedData, world: World, seconds: float, rounds: Sequence[int] = ()
) -> Computing:
    """Time steps without exchange for about so long; a collective of `world`. `rounds`: numbers of
    steps after which all ranks may have to wait for each other."""
    steps = Steps(config, data, world, World())
    each = max(world.gather(steps.take(1)))
    chunk = max(1, *rounds, math.ceil(CHUNK_S / each))
    world.barrier()
    own = [steps.take(1) for _ in range(chunk * max(FEWEST_CHUNKS, int(seconds / each / chunk)))]
    times = np.array(world.gather(own))
    alone = seconds_of_slowest(times, chunk, chunk)
    waits = {every: max(0.0, seconds_of_slowest(times, every, chunk) - alone) for every in rounds}
    return Computing(alone, waits)


def seconds_of_slowest(times: np.ndarray, every: int, chunk: int) -> float:
    """Seconds of a step if ranks wait for each other after `every` steps; the median over chunks
    of steps. `times`: of the steps of each rank, (ranks, steps)."""
    found = []
    for first in range(0, times.shape[1], chunk):
        part = times[:, first : first + chunk // every * every]
        rounds = part.reshape(len(times), -1, every).mean(axis=2)
        found.append(float(rounds.max(axis=0).mean()))
    return statistics.median(found)


def time_steps(config: Config, data: LoadedData, world: World, seconds: float) -> Timed:
    """Time steps with their exchange for about so long; a collective of `world`. Raises UserError
    or ValueError for a config that is refused."""
    steps = Steps(config, data, world, world)
    round_steps = config.distribution.sync_every_steps or 1
    if begun := steps.taken % round_steps:
        steps.take(round_steps - begun)
    each = max(world.gather(steps.take(round_steps))) / round_steps
    chunk = round_steps * max(1, math.ceil(CHUNK_S / each / round_steps))
    chunks = max(FEWEST_CHUNKS, int(seconds / each / chunk))
    _, before, _ = steps.optimizer.telemetry.totals
    world.barrier()
    # Without barriers between them, in which exchanges of rounds would go on.
    own = [steps.take(chunk) / chunk for _ in range(chunks)]
    sent = (steps.optimizer.telemetry.totals[1] - before) / (chunks * chunk)
    times = np.max(world.gather(own), axis=0).tolist()
    steps.optimizer.settle()
    return Timed(statistics.median(times), sent)


def _step_of(classifier: Any, optimizer: Any) -> Callable[[Batch], Any]:
    """One pass in a graph, with a trace for each number of rows, of which there are few."""
    traced: dict[int, Any] = {}

    def run(batch: Batch) -> tf.Tensor:
        classifier.train_step(batch)
        return optimizer.signals.heard()

    def step(batch: Batch) -> tf.Tensor:
        rows = len(batch.labels)
        if rows not in traced:
            specs = spec_of(batch, rows)
            traced[rows] = tf.function(run, autograph=False).get_concrete_function(specs)
        return traced[rows](batch)

    return step


def _first_batches(config: Config, data: LoadedData, world: World, classifier: Any) -> list[Batch]:
    """This rank's batches of the first steps, whole steps only, ready in memory."""
    train = data.splits["train"]
    order = orders_of(strata(train.labels), train.files_of, False)
    plain = with_choice(config, "none", "every_step", 1)
    epochs = Epochs(plain, world, train, order)
    plan = epochs.plan(config.training.seed, 0, 0)
    passes = config.training.backward_passes_per_step
    whole = max(1, min(MOST_BATCHES // passes, len(train) // epochs.batch_size))
    feed = build_feed(config, classifier.classes, train, classifier.normalises).training(
        plan, world.rank
    )
    batches = [batch for _, batch in zip(range(whole * passes), feed, strict=False)]
    feed.close()  # type: ignore[attr-defined]
    return batches


class Mirror(World):
    """One rank that finds in every collective as much as there would be between `size` ranks.

    What it computes takes as long as between them, and nothing travels.
    """

    def __init__(self, size: int):
        self.size = size

    def allgather(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return tf.tile(tensor, [self.size, *[1] * (len(tensor.shape) - 1)])

    def size_tensor(self) -> tf.Tensor:
        return tf.constant(float(self.size))


def make_reducers(config: Config) -> dict[str, Any]:
    """A reducer for each compression, as the config's optimizer would have it."""
    wanted, optimizer = config.distribution, config.optimizer
    wire = Wire(
        seed=config.training.seed,
        topk_ratio=wanted.topk_ratio,
        powersgd_rank=wanted.powersgd_rank,
        momentum=optimizer.momentum if optimizer.optimizer == "sgd" else 0.0,  # topk makes it
    )
    epoch = tf.Variable(0.0, trainable=False)
    size = int(wanted.bucket_mb * 1e6)
    return {name: make_reducer(name, size, True, wire, epoch) for name in COMPRESSIONS}


def codec_seconds(
    config: Config, shapes: Sequence[tuple[int, ...]], world: World, ranks: Sequence[int]
) -> dict[str, Line]:
    """What each compression computes, beside what "none" does, by the number of ranks between
    which it is used; measured at `ranks`, with what all ranks have to do meanwhile. A collective.
    """
    times: dict[str, list[tuple[int, float]]] = {}
    for size in ranks:
        plain = 0.0
        for name, reducer in make_reducers(config).items():
            if size <= LIMITS.get(name, size):
                took = _reduce_seconds(reducer, shapes, size, world)
                plain = took if name == "none" else plain
                times.setdefault(name, []).append((size, max(0.0, took - plain)))
    return {name: _line_through(found) for name, found in times.items()}


def _line_through(found: Sequence[tuple[int, float]]) -> Line:
    """Through the first and the last point, and nowhere falling."""
    (first, before), (last, after) = found[0], found[-1]
    slope = max(0.0, after - before) / (last - first) if last > first else 0.0
    return Line(max(0.0, before - slope * first), slope)


def _reduce_seconds(reducer: Any, shapes: Sequence, ranks: int, world: World) -> float:
    variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in shapes]
    reducer.build(variables, _add_variable)
    rng, mirror = np.random.default_rng(0), Mirror(ranks)
    gradients = [tf.constant(1e-3 * rng.standard_normal(shape, np.float32)) for shape in shapes]

    def run(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        reduced = reducer.reduce(gradients, variables, mirror, "codec")
        for variable, value in reduced.keeps:
            variable.assign(value)
        return reduced.gradients

    graph = tf.function(run, autograph=False)
    graph(gradients)
    graph(gradients)
    times = []
    for _ in range(5):
        world.barrier()
        began = time.perf_counter()
        graph(gradients)[0].numpy()
        times.append(max(world.gather(time.perf_counter() - began)))
    return statistics.median(times)


def _add_variable(
    shape: Sequence[int], dtype: str = "float32", initializer: str = "zeros", **_: Any
) -> keras.Variable:
    return keras.Variable(initializer, shape=tuple(shape), dtype=dtype, trainable=False)
