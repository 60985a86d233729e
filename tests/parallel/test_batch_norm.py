"""BatchNorm over the examples of all ranks: N ranks equal one, statistics included."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from app.classifier import Classifier
from app.data.batches import Batch, spec_of
from app.distributed.batch_norm import synchronised
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World
from tests.parallel.runs import CLASSES, images, largest_difference, train

FLOAT64_BOUND = 1e-9
full = pytest.mark.full_matrix


def resnet20() -> keras.Model:
    """In float64, from input to logits."""
    keras.utils.set_random_seed(3)
    network = models.build_image_model("resnet20", (8, 8, 1), CLASSES, width=4)

    def wide(layer):
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    return keras.models.clone_model(network, clone_function=wide)


def small(dtype="float64") -> keras.Model:
    keras.utils.set_random_seed(3)
    pixels = keras.Input((8, 8, 1), name="pixels")
    x = keras.layers.Rescaling(1 / 255, dtype=dtype, name="rescale")(pixels)
    x = keras.layers.Conv2D(4, 3, use_bias=False, dtype=dtype, name="conv")(x)
    x = keras.layers.BatchNormalization(momentum=0.9, dtype=dtype, name="norm1")(x)
    x = keras.layers.Activation("relu", dtype=dtype, name="relu")(x)
    x = keras.layers.Flatten(dtype=dtype, name="flat")(x)
    x = keras.layers.Dense(8, dtype=dtype, name="hidden")(x)
    x = keras.layers.BatchNormalization(momentum=0.9, dtype=dtype, name="norm2")(x)
    logits_dtype = "float64" if dtype == "float64" else "float32"
    logits = keras.layers.Dense(CLASSES, dtype=logits_dtype, name="logits")(x)
    return keras.Model(pixels, logits, name="small")


def sgd():
    return keras.optimizers.SGD(0.05, momentum=0.9)


def trained(world, make, **options) -> list[np.ndarray]:
    """All variables after 30 steps, moving statistics included. Of 126 examples in batches of 25
    the last one is alone: all ranks but one are empty then."""
    network, optimizer = synchronised(make(), world), sgd()
    if keras.config.dtype_policy().name == "mixed_float16":  # a scale with which nothing overflows
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=128.0)
    train(world, network, images(), optimizer, counts=True, **options)
    return [variable.numpy() for variable in network.variables]


def assert_alike(world, weights) -> None:
    for other in world.gather(weights):
        assert all(np.array_equal(a, b) for a, b in zip(weights, other, strict=True))


CASES = {
    "every step": {},
    "two passes": {"passes": 2},
    "overlapped": {"strategy": "overlapped"},
    "hierarchical": {"strategy": "hierarchical"},
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(one, marks=[full] if one == "hierarchical" else []) for one in CASES],
)
def test_n_ranks_end_where_one_ends(world, case):
    weights = trained(world, small, **CASES[case])
    alone = world.from_chief(lambda: trained(World(), small, **CASES[case]))
    assert largest_difference(weights, alone) <= FLOAT64_BOUND
    assert_alike(world, weights)


@full
def test_n_ranks_end_where_one_ends_on_resnet20(world):
    weights = trained(world, resnet20)
    alone = world.from_chief(lambda: trained(World(), resnet20))
    assert largest_difference(weights, alone) <= FLOAT64_BOUND
    assert_alike(world, weights)


@full
@pytest.mark.parametrize("compression", ["int8", "fp16"])
def test_compressed_gradients_keep_ranks_alike(world, compression):
    weights = trained(world, small, compression=compression)
    assert all(np.isfinite(one).all() for one in weights)
    assert_alike(world, weights)


def test_mixed_float16_keeps_ranks_alike_and_near_one_rank(world):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        weights = trained(world, lambda: small("mixed_float16"))
        alone = world.from_chief(lambda: trained(World(), lambda: small("mixed_float16")))
    finally:
        keras.config.set_dtype_policy("float32")
    assert_alike(world, weights)
    start = small("mixed_float16").get_weights()
    assert largest_difference(weights, alone) < 0.1 * largest_difference(alone, start)


def graphs_of(classifier, batch):
    """A graph for batches with examples and one for those without, as the loop has them."""

    def graph(rows):
        step = tf.function(classifier.train_step, autograph=False)
        return step.get_concrete_function(spec_of(batch, rows))

    with classifier.never_empty():
        return {has_examples: graph(None if has_examples else 0) for has_examples in (True, False)}


def test_a_graph_for_no_examples_comes_to_every_exchange(world):
    """Nothing in it is left out, though TensorFlow knows that it has only zeros to add."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8, 8, 1)).astype(np.uint8)
    labels = rng.integers(0, CLASSES, 8)

    def steps(world, only):
        """5 steps of which a rank has all examples, `only` of them all that it will ever have."""
        network = synchronised(small(), world)
        classifier = Classifier(network)
        classifier.compile(DistributedOptimizer(sgd(), world=world))
        classifier.optimizer.build(classifier.trainable_variables)
        graphs = None
        for number in range(5):
            own = slice(None) if number % world.size == world.rank or only else slice(0)
            batch = Batch(
                tf.constant(pixels[own]),
                tf.constant(labels[own], tf.int64),
                tf.constant(8, tf.int64),
                None,
                tf.constant([8], tf.int64),
            )
            graphs = graphs or graphs_of(classifier, batch)
            graphs[len(labels[own]) > 0](batch)
        return [variable.numpy() for variable in network.variables]

    weights = steps(world, only=False)
    alone = world.from_chief(lambda: steps(World(), only=True))
    assert largest_difference(weights, alone) <= FLOAT64_BOUND
    assert_alike(world, weights)


def test_numbers_of_one_rank_that_are_not_finite_change_nothing_on_any(world):
    network = synchronised(small(), world)
    classifier = Classifier(network)
    classifier.compile(DistributedOptimizer(sgd(), world=world))
    pixels = np.random.default_rng(world.rank).uniform(0, 255, (4, 8, 8, 1))
    before = [variable.numpy() for variable in network.variables]
    bad = pixels.copy()
    bad[1, 2, 3] = np.nan if world.rank == world.size - 1 else 0
    classifier.train_step((bad, np.arange(4)))
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, network.variables, strict=True))
    classifier.train_step((pixels, np.arange(4)))
    moved = [variable.numpy() for variable in network.variables]
    assert all((a != b).any() for a, b in zip(before, moved, strict=True))
    assert_alike(world, moved)


def test_fit_on_uneven_shards_gives_what_one_rank_gives(world):
    rng = np.random.default_rng(6)
    rows = [4 + 2 * rank for rank in range(world.size)]  # of each rank in a batch
    parts = [(rng.uniform(0, 255, (3, n, 8, 8, 1)), rng.integers(0, CLASSES, (3, n))) for n in rows]

    def fitted(of_ranks, world):
        """The weights after 3 batches, each of these ranks' parts of it."""
        network = synchronised(small(), world)
        classifier = Classifier(network)
        classifier.compile(DistributedOptimizer(sgd(), world=world))
        mine = (np.concatenate(part, axis=1) for part in zip(*of_ranks, strict=True))
        pixels, labels = (part.reshape(-1, *part.shape[2:]) for part in mine)
        options = {"batch_size": len(pixels) // 3, "shuffle": False, "verbose": 0}
        classifier.fit(pixels.astype(np.float32), labels, **options)
        return network.get_weights()

    ours = fitted(parts[world.rank : world.rank + 1], world)
    alone = world.from_chief(lambda: fitted(parts, World()))
    assert largest_difference(ours, alone) <= FLOAT64_BOUND
