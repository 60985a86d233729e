"""`fit()` as a Keras user knows it, under several ranks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.classifier import Classifier
from app.distributed import CommitPoints, DistributedOptimizer
from app.distributed.world import World
from tests.parallel.runs import CLASSES, image_network, largest_difference


def shard(world, rows=40):
    """`rows` + 8 * rank examples of this rank: uneven on purpose."""
    rng = np.random.default_rng(world.rank)
    count = rows + 8 * world.rank
    inputs = rng.integers(0, 256, (count, 8, 8, 1)).astype("float32")
    return inputs, rng.integers(0, CLASSES, count)


def test_classifier_fit_keeps_lockstep_and_weighs_the_short_last_batch(world):
    keras.utils.set_random_seed(world.rank)
    classifier = Classifier(image_network())
    classifier.compile(DistributedOptimizer(keras.optimizers.Adam(1e-3)))
    inputs, labels = shard(world)
    inputs, labels = inputs[:36], labels[:36]
    if world.rank:
        inputs, labels = inputs[:34], labels[:34]  # last batch: 4 on the chief, 2 elsewhere
    history = classifier.fit(
        inputs,
        labels,
        batch_size=8,
        epochs=2,
        verbose=0,
        callbacks=[CommitPoints(compare_every_steps=2)],
    )
    assert int(classifier.optimizer.iterations) == 10
    assert len({str(h) for h in world.gather(history.history["loss"])}) == 1


def test_weights_of_examples_give_what_one_rank_gives(world):
    """`sample_weight` on uneven shards against the same global batches on one rank."""
    keras.utils.set_random_seed(6)  # equal weights on all ranks
    rng = np.random.default_rng(6)
    size = world.size
    rows = [4 + 2 * rank for rank in range(size)]  # of each rank in a batch
    parts = [
        (
            rng.integers(0, 256, (3, n, 8, 8, 1)),
            rng.integers(0, CLASSES, (3, n)),
            rng.random((3, n)),
        )
        for n in rows
    ]

    def trained(of_ranks, world):
        """The weights after 3 batches, each of these ranks' parts of it."""
        network = image_network()
        network.set_weights(start)
        classifier = Classifier(network)
        classifier.compile(DistributedOptimizer(keras.optimizers.SGD(0.1), world=world))
        mine = (np.concatenate(part, axis=1) for part in zip(*of_ranks, strict=True))
        images, labels, weights = (part.reshape(-1, *part.shape[2:]) for part in mine)
        options = {"batch_size": len(images) // 3, "shuffle": False, "verbose": 0}
        classifier.fit(images.astype("float32"), labels, sample_weight=weights, **options)
        return network.get_weights()

    start = image_network().get_weights()
    ours = trained(parts[world.rank : world.rank + 1], world)
    alone = world.from_chief(lambda: trained(parts, World()))
    assert largest_difference(ours, alone) <= 2e-6
    assert largest_difference(ours, start) > 1e-2


def normed_network():
    return keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Flatten(name="flatten"),
            keras.layers.BatchNormalization(name="norm", momentum=0.5),
            keras.layers.Dense(CLASSES, name="logits"),
        ]
    )


@pytest.mark.parametrize("validates", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_statistics_of_batchnorm_are_weighed_by_examples_in_fit(world, plain, validates):
    keras.utils.set_random_seed(1)
    network = normed_network()
    optimizer = DistributedOptimizer(keras.optimizers.SGD(0.01))
    if plain:
        model, loss = network, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, jit_compile=False)
    else:
        model = Classifier(network)
        model.compile(optimizer)
    means = network.get_layer("norm").moving_mean
    own, shared = [], []

    class Before(keras.callbacks.Callback):
        """The rank's own statistics, after the last batch of an epoch."""

        def on_train_batch_end(self, batch, logs=None):
            own.append(means.numpy())

    class After(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            shared.append(means.numpy())

        def on_epoch_end(self, epoch, logs=None):
            shared.append(means.numpy())

    inputs, labels = shard(world)
    rows = 8 + 8 * world.rank
    model.fit(
        inputs[:rows],
        labels[:rows],
        batch_size=rows // 2,
        epochs=2,
        validation_data=(inputs, labels) if validates else None,
        verbose=0,
        callbacks=[Before(), CommitPoints(), After()],
    )
    weights = 8 + 8 * np.arange(world.size)
    for epoch in range(2):
        expected = np.average(world.gather(own[2 * epoch + 1]), axis=0, weights=weights)
        found = shared[2 * epoch : 2 * epoch + 2] if validates else [shared[epoch]]
        for one in found:
            np.testing.assert_allclose(one, expected, rtol=1e-6)


def test_a_plain_keras_script_trains_in_lockstep_with_true_metrics(world):
    keras.utils.set_random_seed(world.rank)
    model = image_network()
    model.compile(
        DistributedOptimizer(keras.optimizers.SGD(0.0)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    inputs, labels = shard(world)
    history = model.fit(
        inputs,
        labels,
        batch_size=8,
        steps_per_epoch=5,
        validation_data=(inputs, labels),
        verbose=0,
        shuffle=False,
        callbacks=[CommitPoints(compare_every_steps=1)],
    ).history
    everything = world.gather((inputs, labels))
    all_inputs = np.concatenate([i for i, _ in everything])
    all_labels = np.concatenate([label for _, label in everything])
    right = (model.predict(all_inputs, verbose=0).argmax(1) == all_labels).mean()
    assert history["val_accuracy"][0] == pytest.approx(right, abs=1e-6)
    seen_inputs = np.concatenate([i[:40] for i, _ in everything])
    seen_labels = np.concatenate([label[:40] for _, label in everything])
    right = (model.predict(seen_inputs, verbose=0).argmax(1) == seen_labels).mean()
    assert history["accuracy"][0] == pytest.approx(right, abs=1e-6)


def test_evaluate_reports_all_ranks_examples(world):
    keras.utils.set_random_seed(1)
    classifier = Classifier(image_network())
    classifier.compile(DistributedOptimizer(keras.optimizers.SGD(0.1)))
    inputs, labels = shard(world)
    seen = {}

    class Note(keras.callbacks.Callback):
        def on_test_end(self, logs=None):
            seen.update(logs)

    classifier.evaluate(inputs, labels, verbose=0, callbacks=[CommitPoints(), Note()])
    everything = world.gather((inputs, labels))
    logits = classifier.predict(np.concatenate([i for i, _ in everything]), verbose=0)
    right = (logits.argmax(1) == np.concatenate([label for _, label in everything])).mean()
    assert seen["accuracy"] == pytest.approx(right, abs=1e-6)


def test_mixed_float16_scales_the_loss_inside_and_skips_together(world):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        keras.utils.set_random_seed(2)
        model = image_network()
        optimizer = DistributedOptimizer(keras.optimizers.SGD(0.01), compression="fp16")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, jit_compile=False)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.optimizer is optimizer
    optimizer.inner_optimizer.initial_scale = 2.0**40  # overflows at first, on every rank alike
    inputs, labels = shard(world)
    inputs[0, 0, 0, 0] *= 1 + world.rank
    model.fit(
        inputs[:40],
        labels[:40],
        batch_size=8,
        epochs=6,
        verbose=0,
        callbacks=[CommitPoints(compare_every_steps=1)],
    )
    scale = float(optimizer.inner_optimizer.dynamic_scale.numpy())
    assert 1 <= scale < 2.0**40
    assert 0 < int(optimizer.iterations) < 30


def test_an_unbuilt_model_cannot_be_broadcast(world):
    model = keras.Sequential([keras.layers.Dense(3)])
    model.compile(DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    callback = CommitPoints()
    callback.set_model(model)
    with pytest.raises(ValueError, match="Input layer"):
        callback.on_train_begin()


def test_xla_is_refused_with_what_to_do(world):
    model = image_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(DistributedOptimizer(keras.optimizers.SGD(0.1)), loss, jit_compile=True)
    inputs, labels = shard(world)
    with pytest.raises(RuntimeError, match="jit_compile=False"):
        model.fit(inputs, labels, batch_size=8, verbose=0)


def test_forward_and_backward_may_be_compiled_while_the_exchange_is_not(world):
    keras.utils.set_random_seed(3)
    model = image_network()
    optimizer = DistributedOptimizer(keras.optimizers.SGD(0.1))
    inputs, labels = shard(world)

    @tf.function(jit_compile=True)
    def gradients_of(x, y):
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(y, model(x), from_logits=True)
            loss = tf.reduce_mean(loss)
        return tape.gradient(loss, model.trainable_variables)

    @tf.function
    def step(x, y):
        optimizer.apply(gradients_of(x, y), model.trainable_variables)

    step(tf.constant(inputs[:8]), tf.constant(labels[:8]))
    weights = world.gather([v.numpy() for v in model.trainable_variables])
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[-1], strict=True))


def test_ranks_with_different_numbers_of_steps_end_before_the_first(world):
    classifier = Classifier(image_network())
    classifier.compile(DistributedOptimizer(keras.optimizers.SGD(0.1)))
    inputs, labels = shard(world)
    with pytest.raises(ValueError) as caught:
        classifier.fit(inputs, labels, batch_size=8, verbose=0, callbacks=[CommitPoints()])
    message = str(caught.value)
    assert "5 on rank(s) [0], 6 on rank(s) [1]" in message and "steps_per_epoch=5" in message
    assert int(classifier.optimizer.iterations) == 0


def test_steps_that_keras_does_not_know_and_those_of_validations_may_differ(world):
    classifier = Classifier(image_network())
    classifier.compile(DistributedOptimizer(keras.optimizers.SGD(0.1)))
    inputs, labels = shard(world)

    def batches():
        yield from ((inputs[i : i + 8], labels[i : i + 8]) for i in range(0, 40, 8))

    data = tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec((None, 8, 8, 1), tf.float32),
            tf.TensorSpec((None,), tf.int64),
        ),
    )
    validation = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(8)
    classifier.fit(
        data if world.rank else data.apply(tf.data.experimental.assert_cardinality(5)),
        validation_data=validation,
        epochs=2,
        verbose=0,
        callbacks=[CommitPoints()],
    )
    assert int(classifier.optimizer.iterations) == 10
