"""What each rank of communication.py does: steps with given gradients, taken in turns."""

import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import models
from app.config import Config
from app.distributed.devices import connect_configured
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync, Wire
from app.distributed.reducers import COMPRESSIONS, make_reducer
from app.distributed.replicas import settle
from app.distributed.world import World
from tests.benchmarks.communication import HAVE_ROUNDS, ROUND_STEPS
from tests.benchmarks.throughput import network as small_network

STAGES = 12  # of a computation: the first third is the forward pass
BUCKET_BYTES = 25_000_000
COMMIT_EVERY = Config().commit_steps
Times = dict[str, list[float]]


def make_network(model: str) -> keras.Model:
    """ResNet-18 for small images, or the convnet of the throughput benchmark."""
    if model == "small":
        return small_network()
    return models.build_image_model(model, (32, 32, 3), 10)


def given_gradients(network: keras.Model, rank: int) -> list[tf.Tensor]:
    """A gradient for each variable: a few large numbers among many small ones, as there are."""
    rng = np.random.default_rng(rank)
    shapes = [variable.shape for variable in network.trainable_variables]
    return [tf.constant(1e-3 * rng.standard_normal(s, np.float32) ** 3) for s in shapes]


def parse(label: str) -> dict[str, Any]:
    """The options of a DistributedOptimizer for "strategy", "strategy:steps" or
    "strategy:steps+reducer"."""
    strategy, _, compression = label.partition("+")
    strategy, _, steps = strategy.partition(":")
    if compression and compression not in COMPRESSIONS:
        raise SystemExit(f"{label}: expected one of {list(COMPRESSIONS)} behind the +")
    every = int(steps) if steps else ROUND_STEPS if strategy in HAVE_ROUNDS else 1
    options = {"strategy": strategy, "sync": Sync(every_steps=every)}
    return {**options, "compression": compression or "none"}


class Compute:
    """A computation of a stated length, in `STAGES` stages that follow one another.

    kind: "matmul" keeps a core busy, "sleep" leaves it to others, "none" takes no time.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.amount = tf.Variable(0.0)  # of a stage: products, or seconds
        self.start = tf.Variable(tf.random.normal((192, 192)))
        self.run = tf.function(lambda: self.stages()[-1], autograph=False)

    def stages(self) -> list[tf.Tensor]:
        """What each stage ends with, in the graph of a step."""
        results = [tf.identity(self.start)]
        for _ in range(STAGES):
            results.append(self._stage(results[-1]))
        return results[1:]

    def _stage(self, x: tf.Tensor) -> tf.Tensor:
        if self.kind == "sleep":
            return tf.ensure_shape(
                tf.numpy_function(_asleep, [x, self.amount], tf.float32, stateful=False), x.shape
            )
        products = tf.cast(self.amount, tf.int32)
        loop = tf.while_loop(
            lambda number, _: number < products,
            lambda number, value: (number + 1, tf.tanh(value @ self.start)),
            [0, x],
        )
        return loop[1]

    def last(self, seconds: float, world: World) -> float:
        """Take about so long from now on, on all ranks at once; returns how long it is."""
        if self.kind == "none":
            return 0.0
        amount = 20.0
        if self.kind == "matmul":
            for _ in range(3):  # the first is slow, and a short one says little
                self.amount.assign(amount)
                took = median_of(take_turns(world, {"": self.run}, 3)[""])
                amount = max(1.0, amount * seconds / took)
            self.amount.assign(round(amount))
        else:
            self.amount.assign(seconds / STAGES)
        return median_of(take_turns(world, {"": self.run}, 5)[""])

    def delay(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The same gradients, each when its part of the backward pass is done."""
        if self.kind == "none":
            return list(gradients)
        backward = self.stages()[STAGES // 3 :]
        late = []
        for number, gradient in enumerate(reversed(gradients)):
            stage = backward[(number * len(backward)) // len(gradients)]
            # Of the stage's numbers: a control dependency would be optimised away.
            late.append(gradient + tf.minimum(tf.abs(stage[0, 0]), 0.0))
        return late[::-1]


def _asleep(x: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    time.sleep(float(seconds))
    return x


def take_turns(world: World, works: dict[str, Callable[[], Any]], rounds: int) -> Times:
    """Seconds of each work in each round, on the slowest rank; a round before them warms up."""
    times: Times = {label: [] for label in works}
    for number in range(rounds + 1):
        for label, work in works.items():
            world.barrier()
            began = time.perf_counter()
            work()
            slowest = max(world.gather(time.perf_counter() - began))
            if number:
                times[label].append(slowest)
    return times


def median_of(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def speedup(of: Sequence[float], over: Sequence[float]) -> float:
    """The median over rounds of over / of."""
    return median_of([base / own for base, own in zip(over, of, strict=True)])


def stepper(
    world: World,
    network: keras.Model,
    gradients: Sequence[tf.Tensor],
    label: str,
    compute: Compute | None = None,
    **options: Any,
) -> tuple[Callable[[], Any], DistributedOptimizer]:
    """(a step in a graph, its optimizer); all steps share the network's variables."""
    sgd = keras.optimizers.SGD(1e-9)
    name = re.sub(r"\W", "_", label)  # no other characters in names of collectives
    optimizer = DistributedOptimizer(sgd, world=world, name=name, **options)
    variables = network.trainable_variables
    optimizer.build(variables)

    def step() -> tf.Tensor:
        ready = gradients if compute is None else compute.delay(gradients)
        optimizer.apply(ready, variables)
        return optimizer.signals.heard()

    return tf.function(step, autograph=False), optimizer


def measure_reducers(world: World, about: dict, network: keras.Model) -> tuple[list[dict], float]:
    """A row for each reducer, and the seconds of a step with the first of them."""
    gradients = given_gradients(network, world.rank)
    shapes = [tuple(variable.shape) for variable in network.trainable_variables]
    steps, works, settles, collectives = about["steps"], {}, {}, {}
    for name in about["reducers"] or ["none"]:
        step, optimizer = stepper(world, network, gradients, name, compression=name)
        works[name] = lambda step=step: [step() for _ in range(steps)][-1].numpy()
        settles[name] = lambda o=optimizer: settle(world, network, o, 1.0)
        collectives[name] = optimizer.reducer.collectives(shapes, world.size)
    times = take_turns(world, works, about["rounds"])
    settling = take_turns(world, settles, about["rounds"])
    each = {
        name: [
            s / steps + t / COMMIT_EVERY for s, t in zip(times[name], settling[name], strict=True)
        ]
        for name in works
    }
    first = next(iter(each.values()))
    rows = [
        {
            "name": name,
            "mb_per_step": sum(one.bytes for one in collectives[name]) / 1e6,
            **_milliseconds(values),
            "settle_ms": 1e3 * median_of(settling[name]),
            "speedup": speedup(values, first),
        }
        for name, values in each.items()
    ]
    return rows, median_of(first)


def measure_strategies(
    world: World, about: dict, network: keras.Model, exchange_s: float
) -> list[dict]:
    """A row for each strategy, beside a computation as long as an exchange."""
    compute = Compute(about["compute"])
    compute_s = compute.last(exchange_s, world)
    gradients, steps = given_gradients(network, world.rank), about["steps"]
    cases = [("no exchange", World(), {})]
    cases += [(label, world, parse(label)) for label in about["strategies"]]
    works = {}
    for label, where, options in cases:
        step, optimizer = stepper(where, network, gradients, label, compute, **options)

        def work(step=step, optimizer=optimizer):
            last = [step() for _ in range(steps)][-1].numpy()
            optimizer.settle()
            return last

        works[label] = work
    times = take_turns(world, works, about["rounds"])
    each = {label: [value / steps for value in values] for label, values in times.items()}
    alone, first = each["no exchange"], each[about["strategies"][0]]
    exposed = median_of(first) - median_of(alone)
    return [
        {
            "name": label,
            "compute_ms": 1e3 * compute_s,
            **_milliseconds(values),
            "speedup": speedup(values, first),
            "hidden": (median_of(first) - median_of(values)) / exposed,
        }
        for label, values in each.items()
    ]


def _milliseconds(values: Sequence[float]) -> dict[str, float]:
    low, high = 1e3 * min(values), 1e3 * max(values)
    return {"step_ms": 1e3 * median_of(values), "lowest_ms": low, "highest_ms": high}


class Copying(World):
    """A world of one whose collectives copy what they are given, as those of many do."""

    def allreduce(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return tf.raw_ops.DeepCopy(x=tensor)

    allmax = allgather = alltoall = allreduce


def measure_codecs(about: dict, network: keras.Model) -> list[dict]:
    """The CPU time of each reducer's step, in milliseconds and over that of a plain copy."""
    variables, gradients = network.trainable_variables, given_gradients(network, 0)
    buffer = np.concatenate([gradient.numpy().ravel() for gradient in gradients])
    target, world = np.empty_like(buffer), Copying()
    copy_s = _cpu_seconds(lambda: np.copyto(target, buffer))
    rows = []
    for name in about["reducers"]:
        reducer = make_reducer(name, BUCKET_BYTES, True, Wire(), tf.Variable(0.0))
        reducer.build(variables, _add_variable)

        def step(reducer=reducer) -> tf.Tensor:
            reduced = reducer.reduce(gradients, variables, world, "codec")
            for variable, value in reduced.keeps:
                variable.assign(value)
            with tf.control_dependencies(reduced.gradients):
                return tf.constant(0)

        seconds = _cpu_seconds(tf.function(step, autograph=False))
        rows.append(
            {"name": name, "codec_cpu_ms": 1e3 * seconds, "codec_over_copy": seconds / copy_s}
        )
    return rows


def _add_variable(shape, dtype="float32", initializer="zeros", name=None, **_: Any):
    return keras.Variable(np.zeros(shape), dtype=dtype, name=name, trainable=False)


def _cpu_seconds(work: Callable[[], Any], times: int = 9) -> float:
    """The median CPU time of a call, of all threads of this process."""
    found = []
    for _ in range(times + 2):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return median_of(found[2:])


def main(what: str, text: str, result: str) -> None:
    about, found = json.loads(text), {}
    world = connect_configured(by_host="hierarchical" in text)
    keras.utils.set_random_seed(0)
    network = make_network(about["model"])
    if what == "codecs":
        Path(result).write_text(json.dumps(measure_codecs(about, network)))
        return
    found["reducers"], exchange_s = measure_reducers(world, about, network)
    _keep(found, result, world)
    if about["strategies"]:
        found["strategies"] = measure_strategies(world, about, network, exchange_s)
        _keep(found, result, world)


def _keep(found: dict[str, list[dict]], result: str, world: World) -> None:
    if world.is_chief:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
