"""Every reducer with every strategy, and with what else a run may be made of.

A case gives the variables of a small network, large enough to be compressed, gradients that pull
them to places that differ between ranks. Ranks have unequal numbers of examples, and one has none
in every third pass. There is no forward pass: graphs are small, so that cases can be many. Names
come from the tables of the package: a new reducer or strategy is tested as soon as it has a line.
"""

import hashlib
import itertools
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync, Wire
from app.distributed.reducers import COMPRESSIONS
from app.distributed.replicas import settle
from app.distributed.strategies import STRATEGIES
from app.errors import UserError
from app.state import SAVED, state_variables

# What a case has beside its reducer and its strategy.
FEATURES = ("sgd", "adam", "accumulates", "mixed_float16", "rows")
WORDS, WIDTH, LENGTH = 64, 32, 6
HAVE_ROUNDS, ROUND_STEPS = ("local", "delayed"), 2
STEPS = 5  # so a round is under way where ranks settle
STEPS_AFTER = 3


def quick_cases() -> list[tuple[str, str, str]]:
    """Each reducer, each strategy and each feature at least once."""
    strategies = _repeated(reversed(STRATEGIES))
    return list(zip(_repeated(COMPRESSIONS), strategies, _repeated(FEATURES), strict=True))


def more_cases() -> list[tuple[str, str, str]]:
    """Each reducer with one more strategy; with EVERY_PAIR=1 in the environment, which takes
    minutes more, with each."""
    every_pair = os.environ.get("EVERY_PAIR") == "1"
    return [
        (compression, strategy, FEATURES[(row + column) % len(FEATURES)])
        for row, compression in enumerate(COMPRESSIONS)
        for column, strategy in enumerate(STRATEGIES)
        if every_pair or (row + 2 * column) % len(STRATEGIES) == 0
    ]


def _repeated(names) -> list[str]:
    longest = max(len(COMPRESSIONS), len(STRATEGIES), len(FEATURES))
    return list(itertools.islice(itertools.cycle(names), longest))


@pytest.fixture(autouse=True)
def float32_policy():
    yield
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session()


class Trained:
    """The network and the optimizer of one case, the same on all ranks."""

    def __init__(self, world, compression: str, strategy: str, feature: str):
        self.world = world
        self.passes = 2 if feature == "accumulates" else 1
        self.has_rows = feature == "rows"
        keras.config.set_dtype_policy("mixed_float16" if feature == "mixed_float16" else "float32")
        keras.utils.set_random_seed(1)
        self.network = _network()
        self.variables = self.network.trainable_variables
        self.optimizer = DistributedOptimizer(
            _inner(compression, feature),
            world=world,
            compression=compression,
            wire=Wire(topk_ratio=0.1),
            strategy=strategy,
            sync=Sync(every_steps=ROUND_STEPS if strategy in HAVE_ROUNDS else 1),
            backward_passes_per_step=self.passes,
            sparse_as_dense=not self.has_rows,
            name="matrix",
        )
        self.optimizer.build(self.variables)
        self._pass = tf.function(self._apply, autograph=False)
        self._examples = 0

    def _apply(self, targets, ids, weight, total) -> None:
        scale = self.optimizer.scale_loss(1.0)
        gradients = [
            scale * (variable.value - target)
            for variable, target in zip(self.variables, targets, strict=True)
        ]
        if self.has_rows:
            rows = tf.gather(gradients[0], ids)
            gradients[0] = tf.IndexedSlices(rows, ids, tf.constant([WORDS, WIDTH]))
        self.optimizer.apply(gradients, self.variables, weight=weight, total_weight=total)

    def steps(self, first: int, number: int) -> None:
        """Take steps, from the first on, then settle."""
        for number_of_pass in range(first * self.passes, (first + number) * self.passes):
            counts = np.arange(self.world.size) + 3.0
            if number_of_pass % 3 == 1:
                counts[-1] = 0.0
            rng = np.random.default_rng([number_of_pass, self.world.rank])
            targets = [rng.standard_normal(v.shape, np.float32) for v in self.variables]
            ids = rng.integers(0, WORDS, LENGTH)
            own = counts[self.world.rank]
            given = (ids, np.float32(own), np.float32(counts.sum()))
            self._pass([tf.constant(one) for one in targets], *map(tf.constant, given))
            self._examples += own
        settle(self.world, self.network, self.optimizer, self._examples)
        self._examples = 0

    @property
    def saved(self) -> dict[str, np.ndarray]:
        """What a checkpoint would hold."""
        entries = state_variables(self.network, self.optimizer)
        return {e.path: e.variable.numpy() for e in entries if e.kind in SAVED}

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """The inverse of `saved`."""
        for entry in state_variables(self.network, self.optimizer):
            if entry.kind in SAVED:
                entry.variable.assign(saved[entry.path])


def _network() -> keras.Model:
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    x = keras.layers.Embedding(WORDS, WIDTH, name="embedding")(ids)
    return keras.Model(ids, keras.layers.Dense(40, name="dense")(x), name="network")


def _inner(compression: str, feature: str) -> keras.optimizers.Optimizer:
    if feature == "adam":
        return keras.optimizers.Adam(0.01, name="inner")
    momentum = 0.0 if compression == "topk" else 0.9  # topk has its own
    sgd = keras.optimizers.SGD(0.1, momentum=momentum, name="inner")
    if feature == "mixed_float16":  # a scale with which nothing overflows
        return keras.optimizers.LossScaleOptimizer(sgd, initial_scale=128.0, name="scale")
    return sgd


def make_or_skip(world, case: tuple[str, str, str]) -> Trained:
    """What a case trains. One that is refused must say why by name, on every rank, and is skipped;
    but "none" goes with each strategy, and "every_step" with each reducer."""
    compression, strategy, _ = case
    refused = None
    try:
        trained = Trained(world, *case)
    except (ValueError, UserError) as error:
        refused = str(error)
    refusals = world.gather(refused)
    assert (None in refusals) == (set(refusals) == {None}), f"refused on some ranks: {refusals}"
    if refused is None:
        return trained
    assert compression != "none" and strategy != "every_step", refused
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
    for variable in trained.variables:
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
    "case", [case for case in more_cases() if case not in quick_cases()], ids="-".join
)
def test_reducers_go_with_strategies(world, case):
    check(world, case)
