"""What several ranks make different about examples: who gets which, and that it makes no difference
to the model."""

from typing import Any

import keras
import numpy as np
import pytest

from app.data.text.tokenizer import tokenizer_from
from app.distributed.world import World
from tests.parallel.runs import BATCH, image_network, largest_difference, text_network
from tests.parallel.sources import (
    CROPS,
    EPOCHS,
    EXAMPLES,
    FLOAT32_BOUND,
    LABELS,
    STEPS,
    config_of,
    loop_of,
    opened,
    trained,
)

# N ranks equal one rank

ALL_CHANGES = {**CROPS, "auto_augment": "trivialaugment", "random_erasing": 0.5}
UNEVEN = {"shard_by": "dirichlet", "dirichlet_alpha": 0.1}
SAME_TRAINING: dict[str, tuple[str, dict[str, Any]]] = {
    "augmented": ("folder memory", ALL_CHANGES),
    "label shards": (
        "folder stream",
        {"shard_by": "label", "imbalance": "class_weights", "label_smoothing": 0.1},
    ),
    "dirichlet shards": ("records memory", {**UNEVEN, **CROPS, "backward_passes_per_step": 2}),
    "balanced": ("records stream", {"imbalance": "balanced_sampling", "random_erasing": 0.5}),
    "streamed records": ("records stream", {**CROPS, "auto_augment": "randaugment"}),
    "streamed texts": ("texts stream", {}),
}


# Rotations by 45 degrees and others depend on where in its batch an image is: trivial.py takes
# tf.cos and tf.sin, whose last bit is another one at the end of a batch.


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, marks=pytest.mark.full_matrix if case in ("augmented", "balanced") else []
        )
        for case in SAME_TRAINING
    ],
)
def test_n_ranks_end_where_one_rank_in_memory_ends(world, place, case):
    source, keys = SAME_TRAINING[case]
    config = config_of(place, source, **keys)
    network = text_network if source.startswith("texts") else image_network
    split = opened(world, place, source).splits["train"]
    weights = trained(world, config, split, network)

    in_memory = opened(world, place, source.replace("stream", "memory")).splits["train"]

    def alone():
        in_memory.files_of = split.files_of  # the order is that of the stream
        try:
            return trained(World(), config, in_memory, network)
        finally:
            in_memory.files_of = None

    reference = world.from_chief(alone)
    assert largest_difference(weights, reference) <= FLOAT32_BOUND
    for other in world.gather(weights):
        assert all(np.array_equal(a, b) for a, b in zip(weights, other, strict=True))


def test_mixed_images_on_uneven_and_empty_shares_stay_finite(world, place):
    keys = {**UNEVEN, "mixup": 0.2, "cutmix": 1.0}
    config = config_of(place, "folder memory", **keys)
    split = opened(world, place, "folder memory").splits["train"]
    losses = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.append(float(logs["loss"]))

        def on_epoch_end(self, epoch, logs=None):
            losses.append(float(logs["loss"]))

    loop = loop_of(world, config, split, image_network, [Look()])
    sizes = [len(batch.labels) for batch, _ in loop._batches()]
    loop.run()
    assert len(losses) == STEPS + EPOCHS and np.isfinite(losses).all()
    weights = [variable.numpy() for variable in loop.classifier.trainable_variables]
    assert all(np.isfinite(weight).all() for weight in weights)
    everywhere = np.array(world.gather(sizes))
    assert everywhere.min() == 0 and everywhere.sum() == EXAMPLES
    assert everywhere.sum(1).min() * 1.5 < everywhere.sum(1).max()


# Every example once


def numbers_of(batch, data) -> list[int]:
    """The number of each example, which its input carries."""
    if data.plan.tokenizer is None:
        return batch.inputs.numpy()[:, 0, 0, 0].tolist()
    first, second = (
        [int(token[1:]) for token in tokenizer_from(data.plan.tokenizer).tokens_of(column)]
        for column in batch.inputs.numpy()[:, :2].T
    )
    return [12 * a + b for a, b in zip(first, second, strict=True)]


def got(world, loop, data, steps=None) -> list[int]:
    """The numbers of the examples that all ranks of `world` get, in the first so many steps."""
    own = []
    for number, (batch, _) in enumerate(loop._batches()):
        if steps is None or number < steps * loop.passes:
            own += numbers_of(batch, data)
            assert batch.labels.numpy().tolist() == LABELS[numbers_of(batch, data)].tolist()
    return [number for rank in world.gather(own) for number in rank]


ONCE: dict[str, tuple[str, dict[str, Any]]] = {
    "memory": ("folder memory", {}),
    "image files": ("folder stream", {}),
    "records": ("records stream", {}),
    "texts": ("texts stream", {}),
    "label shards": ("records stream", {"shard_by": "label"}),
    "dirichlet shards": ("folder stream", UNEVEN),
    "passes": ("records stream", {**UNEVEN, "backward_passes_per_step": 3}),
}


@pytest.mark.parametrize("case", ONCE)
def test_every_example_comes_once_and_also_if_an_epoch_is_resumed(world, place, case):
    source, keys = ONCE[case]
    config, data = config_of(place, source, **keys), opened(world, place, source)
    split = data.splits["train"]
    loop = loop_of(world, config, split, image_network)
    assert sorted(got(world, loop, data)) == list(range(EXAMPLES))

    begun = got(world, loop, data, steps=2)
    assert len(begun) == 2 * BATCH
    loop.state.examples_seen = 2 * BATCH
    assert sorted(begun + got(world, loop, data)) == list(range(EXAMPLES))

    def alone():
        other = loop_of(World(), config, split, image_network)
        other.state.examples_seen = 2 * BATCH
        return got(World(), other, data)

    assert sorted(begun + world.from_chief(alone)) == list(range(EXAMPLES))


def test_a_stream_hands_out_its_own_order_and_no_rank_gets_the_same_example(world, place):
    data = opened(world, place, "records stream")
    assert len(np.unique(data.splits["train"].files_of)) > 4
    loop = loop_of(world, config_of(place, "records stream"), data.splits["train"], image_network)
    own = [number for batch, _ in loop._batches() for number in numbers_of(batch, data)]
    assert own != sorted(own)
    counts = [len(rank) for rank in world.gather(own)]
    assert max(counts) - min(counts) <= STEPS // EPOCHS
