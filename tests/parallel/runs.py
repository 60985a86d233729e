"""Small trainings that the parallel tests compare: the application's own parts, no launcher."""

import itertools

import keras
import numpy as np
import tensorflow as tf

import models
from app.classifier import Classifier
from app.data.batches import Feed, Loaded, spec_of
from app.data.order import EpochPlan, Shuffled
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.reducers.reducer import Reduced
from app.distributed.replicas import broadcast_state
from app.state import Kind

CLASSES = 5
# 5 full batches, then one of a single example: every other rank is left empty.
BATCH, EXAMPLES = 25, 126


def images() -> Loaded:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (EXAMPLES, 8, 8, 1)).astype(np.uint8)
    return Loaded(tf.constant(pixels), rng.integers(0, CLASSES, EXAMPLES))


def texts() -> Loaded:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 12, EXAMPLES)
    ids = tf.constant(rng.integers(2, 60, lengths.sum()), tf.int32)
    ragged = tf.RaggedTensor.from_row_lengths(ids, lengths)
    return Loaded(ragged, rng.integers(0, CLASSES, EXAMPLES), lengths)


def image_network() -> keras.Model:
    return keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255, name="rescale"),
            keras.layers.Conv2D(6, 3, activation="relu", name="conv"),
            keras.layers.MaxPooling2D(name="pool"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(16, activation="tanh", name="hidden"),
            keras.layers.Dense(CLASSES, name="logits"),
        ]
    )


def text_network() -> keras.Model:
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(60, 8, name="embedding")(ids)
    x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(ids, keras.layers.Dense(CLASSES, name="logits")(x))


def encoder_network() -> keras.Model:
    """A small one in the layout of BERT, without dropout."""
    sizes = {"tokens": 60, "width": 16, "blocks": 2, "heads": 2, "hidden": 32, "positions": 64}
    sizes |= {"kinds": 2, "activation": "gelu", "epsilon": 1e-12, "pooling": "mean"}
    options = {"max_tokens": 64, "dropout": 0.0, "pretrained": sizes}
    return models.build_text_model("bert", 60, CLASSES, **options)


def train(
    world,
    network,
    data,
    optimizer,
    *,
    steps=30,
    seed=7,
    passes=1,
    batch=BATCH,
    tasks=None,
    counts=False,
    **options,
) -> list[np.ndarray]:
    """The trainable variables after `steps` optimizer steps from the chief's initial weights."""
    classifier = Classifier(network, tasks=tasks)
    classifier.compile(
        DistributedOptimizer(optimizer, world=world, backward_passes_per_step=passes, **options)
    )
    classifier.optimizer.build(classifier.trainable_variables)
    classifier.optimizer.settles = True
    broadcast_state(world, classifier, classifier.optimizer, seed=0, step=0)
    steps_by_has_examples = {}  # as app/loop.py does: others would be traced twice

    def step_of(part):
        has_examples = bool(len(part.labels))
        if has_examples not in steps_by_has_examples:
            specs = spec_of(part, None if has_examples else 0)
            with classifier.never_empty():
                traced = tf.function(classifier.train_step, autograph=False)
                steps_by_has_examples[has_examples] = traced.get_concrete_function(specs)
        return steps_by_has_examples[has_examples]

    def batches():
        for epoch in itertools.count():
            order = Shuffled(len(data), seed, epoch)
            plan = EpochPlan(order, batch, world.size, passes)
            yield from Feed(data, counts=counts).training(plan, world.rank)

    for part in itertools.islice(batches(), steps * passes):
        step_of(part)(part)
    classifier.optimizer.settle()
    assert int(classifier.optimizer.iterations) == steps
    return [variable.numpy() for variable in classifier.trainable_variables]


def largest_difference(left: list[np.ndarray], right: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))


class HalfNow:
    """A reducer that sends half of what it owes and keeps the rest, as lossy ones keep an error."""

    def build(self, variables, add_variable):
        self.owed = [
            add_variable(v.shape, dtype="float32", name=f"owed_{number}", kind=Kind.SUMMED)
            for number, v in enumerate(variables)
        ]

    def reduce(self, gradients, variables, world, name):
        sums, keeps = [], []
        for number, (gradient, owed) in enumerate(zip(gradients, self.owed, strict=True)):
            half = (gradient + owed.value) / 2
            keeps.append((owed, half))
            sums.append(world.allreduce(half, f"{name}.{number}"))
        return Reduced(sums, [], keeps)
