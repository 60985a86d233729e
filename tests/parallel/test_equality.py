"""N ranks equal one rank: the promise everything else rests on."""

import functools

import keras
import numpy as np
import pytest

from app.distributed.world import World
from app.learning.lars import Lars
from tests.parallel.runs import (
    encoder_network,
    image_network,
    images,
    largest_difference,
    text_network,
    texts,
    train,
)

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(1e-3),
    "lars": lambda: Lars(0.05, momentum=0.9, weight_decay=1e-3, trust=0.02),
}
TASKS = {
    "images": (image_network, images),
    "texts": (text_network, texts),
    "encoder": (encoder_network, texts),
}
FLOAT32_BOUND = 2e-6
# One exchange in float16 is bounded exactly in test_optimizer.py. Over 30 steps the differences
# feed back into the gradients; the weights themselves move by more than ten times this bound.
FLOAT16_BOUND = 3e-2


def starting_weights(task):
    keras.utils.set_random_seed(11)
    return TASKS[task][0]().get_weights()


@functools.cache
def reference(world, task, optimizer):
    """One process over the same global batches: the chief trains alone."""
    network, data = TASKS[task]

    def alone():
        model = network()
        model.set_weights(starting_weights(task))
        return train(World(), model, data(), OPTIMIZERS[optimizer]())

    return world.from_chief(alone)


def on_all_ranks(world, task, optimizer, **options):
    """The same training on all ranks, which start from different weights but for the chief's."""
    network, data = TASKS[task]
    model = network()
    if world.is_chief:
        model.set_weights(starting_weights(task))
    return train(world, model, data(), OPTIMIZERS[optimizer](), **options)


# Not the encoder with Adam, which takes the rounding of one gradient for a direction: attention
# does not depend on the bias of its keys, so the gradient of that is 0.
@pytest.mark.parametrize(
    ("task", "optimizer"),
    [
        pytest.param(
            task, rule, marks=[pytest.mark.full_matrix] * ((task, rule) == ("encoder", "lars"))
        )
        for task in TASKS
        for rule in OPTIMIZERS
        if (task, rule) != ("encoder", "adam")
    ],
)
def test_n_ranks_end_where_one_rank_ends(world, task, optimizer):
    if task == "encoder" and world.size != {"lars": 2, "sgd": 3}[optimizer]:
        pytest.skip("is tested with another number of ranks, to save time")
    weights = on_all_ranks(world, task, optimizer)
    assert largest_difference(weights, reference(world, task, optimizer)) <= FLOAT32_BOUND
    assert all(
        np.array_equal(a, b)
        for other in world.gather(weights)
        for a, b in zip(weights, other, strict=True)
    )


@pytest.mark.parametrize("sparse_as_dense", [True, False])
def test_gathered_embedding_gradients_end_where_dense_ones_end(world, sparse_as_dense):
    weights = on_all_ranks(world, "texts", "sgd", sparse_as_dense=sparse_as_dense)
    assert largest_difference(weights, reference(world, "texts", "sgd")) <= FLOAT32_BOUND


@pytest.mark.full_matrix
def test_many_small_buckets_end_where_one_bucket_ends(world):
    weights = on_all_ranks(world, "images", "sgd", bucket_mb=0.0005)
    assert largest_difference(weights, reference(world, "images", "sgd")) <= FLOAT32_BOUND


def test_accumulated_passes_equal_the_large_batch(world):
    weights = on_all_ranks(world, "images", "adam", passes=3)
    assert largest_difference(weights, reference(world, "images", "adam")) <= FLOAT32_BOUND


def test_fp16_exchange_stays_within_its_bound_and_in_lockstep(world):
    weights = on_all_ranks(world, "images", "sgd", compression="fp16")
    exact = reference(world, "images", "sgd")
    assert 0 < largest_difference(weights, exact) <= FLOAT16_BOUND
    start = [w for w in starting_weights("images") if w.ndim]
    assert largest_difference(exact, start) > 10 * FLOAT16_BOUND
    for other in world.gather(weights):
        assert all(np.array_equal(a, b) for a, b in zip(weights, other, strict=True))


def test_plain_mean_differs_when_shares_are_uneven(world):
    """The other choice is another choice: equal ranks, not equal examples."""
    weights = on_all_ranks(world, "images", "sgd", op="average")
    assert largest_difference(weights, reference(world, "images", "sgd")) > 1e-4
