"""Reducers of made-up variables, on ranks that are threads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from app.distributed.options import Wire
from app.distributed.reducers import make_reducer
from app.distributed.world import World
from app.state import Kind
from tests.single.distributed.threads import on_ranks

SHAPES = ((3, 3, 16, 24), (24,), (64, 100), (100, 10))
LOSSY = ("int8", "topk", "powersgd", "terngrad")
FEEDBACK = ("topk", "powersgd")
UNBIASED = ("int8", "terngrad")
BUCKET_BYTES = 20_000


class Made(NamedTuple):
    """What a reducer keeps, and of what kind it is."""

    variable: keras.Variable
    kind: Kind


class Reducing:
    """One rank's reducer, and its steps."""

    def __init__(self, name: str, world: World, shapes=SHAPES, wire: Wire | None = None):
        self.world = world
        self.epoch = tf.Variable(0.0)
        self.variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in shapes]
        self.reducer = make_reducer(name, BUCKET_BYTES, True, wire, self.epoch)
        self.made: list[Made] = []
        self.reducer.build(self.variables, self._add)

    def _add(self, shape, dtype="float32", initializer="zeros", kind=Kind.REPLICATED, **_):
        value = keras.initializers.get(initializer)(shape, dtype)
        self.made.append(Made(keras.Variable(value, dtype=dtype), kind))
        return self.made[-1].variable

    def step(self, gradients: list, counts: bool = True) -> list[Any]:
        """The sums over ranks of the gradients; also looks at what was sent."""
        given = [None if g is None else tf.constant(g, tf.float32) for g in gradients]
        reduced = self.reducer.reduce(given, self.variables, self.world, "x")
        for exact, received in (sent.versions() for sent in reduced.sent):
            assert exact.shape == received.shape
        for variable, value in reduced.keeps if counts else ():
            variable.assign(value)
        self.sent_bytes = sum(float(sent.bytes_sent) for sent in reduced.sent)
        return [None if sum_ is None else sum_.numpy() for sum_ in reduced.gradients]

    def state(self, *kinds: Kind) -> list[np.ndarray]:
        """What is kept, of these kinds."""
        return [made.variable.numpy() for made in self.made if made.kind in kinds]


def gradients(rank: int, step: int, shapes=SHAPES) -> list[np.ndarray]:
    """Of a rank in a step: normal, and as unlike as those of other ranks."""
    random = np.random.default_rng([rank, step])
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def on(ranks: int, work: Callable[[World], Any]) -> list:
    """`work(world)` on every rank; the results."""
    return on_ranks(ranks, work)
