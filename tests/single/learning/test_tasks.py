"""Several labels: what each head learns, on one worker."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.classifier import Classifier
from app.data.batches import Batch, Feed, Loaded
from app.data.heads import Head, first, labelled, strata
from app.data.order import EpochPlan, Shuffled
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World
from app.errors import UserError
from app.learning.task import Task, tasks_of
from app.recipe import load

HEADS = (Head("intent", ("a", "b", "c")), Head("domain", ("x", "y")))
LABELS = np.array([[0, 1], [2, -1], [-1, 0], [1, 1], [0, -1]])


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, activation="tanh", name="hidden")(inputs)
    heads = [keras.layers.Dense(n, name=name)(x) for name, n in (("i", 3), ("d", 2))]
    return keras.Model(inputs, heads)


def inputs() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(len(LABELS), 4)).astype(np.float32)


def classifier(tasks, rate: float = 0.5) -> Classifier:
    made = Classifier(network(), tasks=tasks)
    made.compile(DistributedOptimizer(keras.optimizers.SGD(rate), world=World()))
    return made


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def test_the_gradient_is_that_of_each_heads_mean_over_its_own_labels() -> None:
    tasks = [Task("intent", 1.0, 0.1), Task("domain", 0.3, 0.0, (0.5, 2.0))]
    made = classifier(tasks)
    logits = [one.numpy() for one in made(inputs(), training=True)]
    before = [layer.bias.numpy() for layer in (made.network.get_layer(n) for n in "id")]
    made.train_step((inputs(), LABELS))
    for head, (task, classes) in enumerate(zip(tasks, (3, 2), strict=True)):
        known = LABELS[:, head] >= 0
        targets = np.eye(classes)[LABELS[known, head]]
        cost = targets @ np.array(task.class_weights or [1.0] * classes)
        wanted = targets * (1 - task.label_smoothing) + task.label_smoothing / classes
        error = np.exp(log_softmax(logits[head][known])) - wanted
        gradient = task.weight * (cost[:, None] * error).mean(axis=0)
        layer = made.network.get_layer("id"[head])
        np.testing.assert_allclose(layer.bias, before[head] - 0.5 * gradient, atol=1e-6)


def test_metrics_are_of_each_head_and_the_loss_is_their_weighted_sum() -> None:
    made = classifier([Task("intent"), Task("domain", 0.3)])
    logits = [one.numpy() for one in made(inputs())]
    for step in (made.test_step, made.train_step):
        made.reset_metrics()
        found = {name: float(value) for name, value in step((inputs(), LABELS)).items()}
        losses = []
        for head, name in enumerate(("intent", "domain")):
            known = LABELS[:, head] >= 0
            labels = LABELS[known, head]
            losses.append(-log_softmax(logits[head][known])[range(len(labels)), labels].mean())
            right = (logits[head][known].argmax(axis=1) == labels).mean()
            assert found[f"{name}_loss"] == pytest.approx(losses[-1], rel=1e-5)
            assert found[f"{name}_accuracy"] == pytest.approx(right)
        assert found["loss"] == pytest.approx(losses[0] + 0.3 * losses[1], rel=1e-5)
        assert found["accuracy"] == found["intent_accuracy"]


def test_a_side_of_a_blend_without_a_label_drops_out() -> None:
    task, logits = Task(label_smoothing=0.1), tf.constant([[1.0, 2.0, 0.0], [0.0, 0.5, 3.0]])
    whole = task.objectives(tf.constant([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), logits).numpy()
    part = task.objectives(tf.constant([[0.0, 0.7, 0.0], [0.0, 0.0, 0.0]]), logits).numpy()
    np.testing.assert_allclose(part, [0.7 * whole[0], 0.0], rtol=1e-6)


def test_fit_takes_labels_of_several_heads() -> None:
    made = classifier([Task("intent"), Task("domain")])
    history = made.fit(inputs(), LABELS, epochs=40, batch_size=5, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["intent_accuracy"][-1] == history["domain_accuracy"][-1] == 1


def test_a_feed_counts_the_labels_of_a_whole_step() -> None:
    split = Loaded(tf.constant(inputs()), LABELS)
    plan = EpochPlan(Shuffled(len(LABELS), 0, 0), 4, 2, passes_per_step=2)
    parts = [list(Feed(split, counts=True).training(plan, rank)) for rank in (0, 1)]
    for step in (slice(0, 2), slice(2, 4)):
        batches: list[Batch] = parts[0][step] + parts[1][step]
        everything = np.concatenate([batch.labels.numpy() for batch in batches])
        for batch in batches:
            np.testing.assert_array_equal(batch.counts, (everything >= 0).sum(axis=0))
    assert all(batch.counts is None for batch in Feed(split).training(plan, 0))


def test_what_goes_by_one_label_goes_by_the_first() -> None:
    np.testing.assert_array_equal(first(LABELS), [0, 2, -1, 1, 0])
    np.testing.assert_array_equal(strata(LABELS), [0, 2, 3, 1, 0])
    np.testing.assert_array_equal(strata(LABELS[:, 1] + 1), LABELS[:, 1] + 1)
    np.testing.assert_array_equal(labelled(LABELS), [4, 3])


def test_weights_and_smoothing_are_for_all_heads_or_one_for_each() -> None:
    config = load(None, {"task_weights": "1,0.3", "label_smoothing": "0.1,0"})
    found = tasks_of(config, HEADS)
    assert found == [Task("intent", 1.0, 0.1), Task("domain", 0.3, 0.0)]
    config = load(None, {"label_smoothing": "0.1", "imbalance": "class_weights"})
    found = tasks_of(config, HEADS, LABELS)
    assert [task.label_smoothing for task in found] == [0.1, 0.1]
    assert found[0].class_weights == pytest.approx((4 / 6, 4 / 3, 4 / 3))
    assert found[1].class_weights == pytest.approx((3 / 2, 3 / 4))


@pytest.mark.parametrize(
    ("keys", "heads", "message"),
    [
        ({"task_weights": "1,2,3"}, HEADS, "task_weights has 3 numbers, and there are 2 labels"),
        ({"label_smoothing": "0.1,0"}, HEADS[:1], "label_smoothing has 2 numbers, and there are 1"),
        ({}, (HEADS[0], Head("val", ("x", "y"))), "label 'val': 'val_loss' is what another"),
    ],
)
def test_what_does_not_fit_the_heads_is_refused(keys, heads, message) -> None:
    with pytest.raises(UserError, match=message):
        tasks_of(load(None, keys), heads)


@pytest.mark.parametrize("given", ["0,0", "1,-1", ""])
def test_weights_that_mean_nothing_are_refused(given: str) -> None:
    with pytest.raises(UserError, match="task_weights must be 0 or more, and not all 0"):
        load(None, {"task_weights": given})
