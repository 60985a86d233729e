"""What `fit()` and `evaluate()` of Keras give a classifier beside examples: weights of these."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.classifier import Classifier
from app.data.batches import Batch
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World

SGD = keras.optimizers.SGD
WEIGHTS = np.array([0.001, 0.5, 0.0, 2.0, 1.0, 3.0, 0.25, 1.5], np.float32)


def plain(make_classifier) -> Classifier:
    """A classifier whose loss and gradient can be computed by hand."""
    return make_classifier(SGD(0.5), batch_norm=False, dropout=0.0)


def by_hand(network: keras.Model, inputs, labels, weights) -> tuple[float, list[np.ndarray]]:
    """The mean over examples of weight x cross-entropy, and what SGD of 0.5 makes of it."""
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, network(inputs))
        loss = tf.reduce_mean(losses * weights)
    gradients = tape.gradient(loss, network.trainable_variables)
    moved = zip(network.trainable_variables, gradients, strict=True)
    return float(loss), [(variable - 0.5 * gradient).numpy() for variable, gradient in moved]


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_weights_of_examples_weigh_the_loss_and_its_gradient(make_classifier, batch, shape) -> None:
    classifier = plain(make_classifier)
    loss, expected = by_hand(classifier.network, *batch, WEIGHTS)
    history = classifier.fit(
        *batch, sample_weight=WEIGHTS.reshape(shape), batch_size=8, shuffle=False, verbose=0
    ).history
    assert history["loss"][0] == pytest.approx(loss, rel=1e-5)
    for ours, theirs in zip(classifier.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


def test_tiny_weights_move_the_model_by_little(make_classifier, batch) -> None:
    classifier = plain(make_classifier)
    before = classifier.network.get_weights()
    classifier.fit(*batch, sample_weight=np.full(8, 0.001), batch_size=8, verbose=0)
    moved = zip(classifier.network.get_weights(), before, strict=True)
    assert 0 < max(np.abs(new - old).max() for new, old in moved) < 0.002


@pytest.mark.parametrize("as_dataset", [False, True])
def test_weights_of_classes_are_those_that_a_classifier_is_made_with(
    make_classifier, batch, as_dataset
) -> None:
    classifier = plain(make_classifier)
    network = keras.models.clone_model(classifier.network)
    network.set_weights(classifier.network.get_weights())
    other = Classifier(network, class_weights=[0.5, 2.0, 1.0])
    other.compile(DistributedOptimizer(SGD(0.5), world=World()))
    other.fit(*batch, batch_size=8, shuffle=False, verbose=0)
    data = tf.data.Dataset.from_tensor_slices(batch).batch(8)
    given = {"x": data} if as_dataset else dict(zip("xy", batch, strict=True), batch_size=8)
    classifier.fit(**given, class_weight={0: 0.5, 1: 2.0, 2: 1.0}, shuffle=False, verbose=0)
    for one, two in zip(classifier.network.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_weights_count_in_an_evaluation_and_in_a_validation(make_classifier, batch) -> None:
    inputs, labels = batch
    classifier = plain(make_classifier)
    classifier.optimizer.inner_optimizer.learning_rate = 0.0
    probabilities = tf.nn.softmax(classifier(inputs)).numpy()
    losses = -np.log(probabilities)[range(8), labels]
    expected = np.mean(losses * WEIGHTS)
    scored = classifier.evaluate(
        inputs, labels, sample_weight=WEIGHTS, batch_size=3, return_dict=True, verbose=0
    )
    assert scored["loss"] == pytest.approx(expected, rel=1e-5)
    assert scored["accuracy"] == pytest.approx((probabilities.argmax(1) == labels).mean())
    history = classifier.fit(
        inputs, labels, validation_data=(inputs, labels, WEIGHTS), batch_size=3, verbose=0
    ).history
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert history["loss"][0] == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_dataset_of_batches_keeps_their_totals(make_classifier, batch) -> None:
    classifier, other = plain(make_classifier), plain(make_classifier)
    given = Batch(tf.constant(batch[0]), tf.constant(batch[1]), tf.constant(16, tf.int64))
    one = tf.data.Dataset.from_tensors(given)
    classifier.fit(one, shuffle=False, verbose=0)
    # As if another rank had as many examples, and gradients of 0.
    _, expected = by_hand(other.network, *batch, np.full(8, 0.5, np.float32))
    for ours, theirs in zip(classifier.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("step", ["train_step", "test_step"])
def test_a_tuple_of_another_length_is_told_what_is_taken(
    make_classifier, batch, parts, step
) -> None:
    data = (*batch, WEIGHTS, WEIGHTS)[:parts]
    with pytest.raises(ValueError, match=rf"got {parts} parts: expected \(inputs, labels\)"):
        getattr(plain(make_classifier), step)(data)


def test_fit_without_labels_and_weights_of_tokens_are_refused(make_classifier, batch) -> None:
    classifier = plain(make_classifier)
    with pytest.raises(ValueError, match=r"expected \(inputs, labels\)"):
        classifier.fit(batch[0], verbose=0)
    with pytest.raises(ValueError, match=r"sample_weight of shape \(8, 2\): expected one weight"):
        classifier.train_step((*batch, np.ones((8, 2))))
