"""Every reducer with every strategy, and with what else a run may be made of.

A case trains a small network whose large tensors are compressed, on ranks with unequal numbers of
examples, one of which is empty in every third pass. Names come from the tables of the package, so
a new reducer or strategy is tested here as soon as it has a line there.
"""

import hashlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.classifier import Classifier
from app.data.batches import Batch
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync, Wire
from app.distributed.reducers import COMPRESSIONS
from app.distributed.replicas import broadcast_state, settle
from app.distributed.strategies import STRATEGIES
from app.errors import UserError
from app.state import SAVED, state_variables

# What a case has beside its reducer and its strategy.
FEATURES = ("sgd", "adam", "accumulates", "mixed_float16", "rows")
WORDS, LENGTH, CLASSES = 64, 6, 5
ROUND_STEPS = 2
STEPS = 5  # so a round is under way where ranks settle
STEPS_AFTER = 3


def quick_cases() -> list[tuple[str, str, str]]:
    """Each reducer, each strategy and each feature at least once."""
    rows = zip(_repeated(COMPRESSIONS), _repeated(STRATEGIES), _repeated(FEATURES), strict=True)
    return list(rows)


def all_cases() -> list[tuple[str, str, str]]:
    """Each reducer with each strategy; each of both with each feature."""
    return [
        (compression, strategy, FEATURES[(row + column) % len(FEATURES)])
        for row, compression in enumerate(COMPRESSIONS)
        for column, strategy in enumerate(STRATEGIES)
    ]


def _repeated(names) -> list[str]:
    longest = max(len(COMPRESSIONS), len(STRATEGIES), len(FEATURES))
    return [list(names)[number % len(names)] for number in range(longest)]


@pytest.fixture(autouse=True)
def float32_policy():
    yield
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session()


class Trained:
    """A classifier of one case, the same on all ranks, and its step."""

    def __init__(self, world, compression: str, strategy: str, feature: str):
        self.world = world
        self.passes = 2 if feature == "accumulates" else 1
        keras.config.set_dtype_policy("mixed_float16" if feature == "mixed_float16" else "float32")
        keras.utils.set_random_seed(1)
        self.classifier = Classifier(_network())
        inner = (
            keras.optimizers.Adam(0.01, name="inner")
            if feature == "adam"
            else keras.optimizers.SGD(0.1, momentum=0.0 if compression == "topk" else 0.9)
        )
        inner.name = "inner"
        if feature == "mixed_float16":  # a scale with which nothing overflows
            inner = keras.optimizers.LossScaleOptimizer(inner, initial_scale=128.0, name="scale")
        self.optimizer = DistributedOptimizer(
            inner,
            world=world,
            compression=compression,
            wire=Wire(topk_ratio=0.1),
            strategy=strategy,
            sync=Sync(every_steps=ROUND_STEPS),
            backward_passes_per_step=self.passes,
            sparse_as_dense=feature != "rows",
            name="matrix",
        )
        self.classifier.compile(self.optimizer)
        self.optimizer.build(self.classifier.trainable_variables)
        broadcast_state(world, self.classifier, self.optimizer, seed=0, step=0)
        spec = Batch(
            tf.TensorSpec((None, LENGTH), tf.int32),
            tf.TensorSpec((None,), tf.int64),
            tf.TensorSpec((), tf.int64),
        )
        self._step = tf.function(self.classifier.train_step, [spec], autograph=False)
        self._examples = 0

    def steps(self, first: int, number: int) -> None:
        """Take steps, from the first on, then settle."""
        for step in range(first * self.passes, (first + number) * self.passes):
            batch = _batch(step, self.world)
            self._examples += len(batch.labels)
            self._step(batch)
        settle(self.world, self.classifier, self.optimizer, self._examples)
        self._examples = 0

    @property
    def saved(self) -> dict[str, np.ndarray]:
        """What a checkpoint would hold."""
        entries = state_variables(self.classifier, self.optimizer)
        return {e.path: e.variable.numpy() for e in entries if e.kind in SAVED}

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """The inverse of `saved`."""
        for entry in state_variables(self.classifier, self.optimizer):
            if entry.kind in SAVED:
                entry.variable.assign(saved[entry.path])


def _network() -> keras.Model:
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    x = keras.layers.Embedding(WORDS, 32, name="embedding")(ids)
    x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    x = keras.layers.Dense(40, name="hidden")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation("relu", name="relu")(x)
    logits = keras.layers.Dense(CLASSES, dtype="float32", name="logits")(x)
    return keras.Model(ids, logits, name="network")


def _batch(number: int, world) -> Batch:
    """This rank's part of a pass: rank r has r + 3 examples, and the last rank has none in every
    third pass."""
    counts = np.arange(world.size) + 3
    if number % 3 == 1:
        counts[-1] = 0
    rng = np.random.default_rng([number, world.rank])
    own = counts[world.rank]
    ids, labels = rng.integers(0, WORDS, (own, LENGTH)), rng.integers(0, CLASSES, own)
    total = tf.constant(counts.sum(), tf.int64)
    return Batch(tf.constant(ids, tf.int32), tf.constant(labels, tf.int64), total)


def make_or_skip(world, case: tuple[str, str, str]) -> Trained:
    """What a case trains. One that is refused must say why by name, on every rank, and is skipped;
    but plain SGD and Adam go with each reducer and each strategy."""
    compression, strategy, feature = case
    refused = None
    try:
        trained = Trained(world, *case)
    except (ValueError, UserError) as error:
        refused = str(error)
    refusals = world.gather(refused)
    assert (None in refusals) == (set(refusals) == {None}), f"refused on some ranks: {refusals}"
    if refused is None:
        return trained
    assert feature not in ("sgd", "adam"), refused
    assert f"'{compression}'" in refused or f"'{strategy}'" in refused, refused
    pytest.skip(refused)


def check(world, case: tuple[str, str, str]) -> None:
    """Ranks have one state where they settle, a finite one of so many steps; and who starts anew
    from what is saved ends with the bits of who does not."""
    trained = make_or_skip(world, case)
    began = trained.saved
    trained.steps(0, STEPS)
    saved = trained.saved
    for path, value in saved.items():
        assert np.isfinite(value).all(), path
        digests = world.gather(hashlib.blake2b(value.tobytes()).hexdigest())
        assert len(set(digests)) == 1, f"{path} differs between ranks"
    assert int(trained.optimizer.iterations) == STEPS
    for variable in trained.classifier.trainable_variables:
        assert (saved[variable.path] != began[variable.path]).any(), f"{variable.path} is as it was"

    again = Trained(world, *case)
    again.restore(saved)
    for one in (trained, again):
        one.steps(STEPS, STEPS_AFTER)
    for path, value in trained.saved.items():
        assert value.tobytes() == again.saved[path].tobytes(), f"{path} is not as undisturbed"


@pytest.mark.parametrize("case", quick_cases(), ids="-".join)
def test_ranks_agree_and_resume_with_the_same_bits(world, case):
    check(world, case)


@pytest.mark.full_matrix
@pytest.mark.parametrize(
    "case", [case for case in all_cases() if case not in quick_cases()], ids="-".join
)
def test_every_reducer_goes_with_every_strategy(world, case):
    check(world, case)
