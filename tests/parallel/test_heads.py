"""Several labels, many of them missing: N ranks take the step of one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.build import build_classifier
from app.classifier import Classifier
from app.data.batches import Loaded
from app.data.heads import labelled as labels_of_heads
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World
from app.evaluation.calibration import fit_temperature
from app.evaluation.evaluate import evaluate, scored
from app.evaluation.sureness import Sureness
from app.learning.task import Task
from app.load import load_data
from tests.parallel.runs import EXAMPLES, images, largest_difference, train
from tests.parallel.sources import config_of, loop_around

FLOAT32_BOUND = 2e-6  # as in test_equality.py
CLASSES = (5, 3, 2)
TASKS = [Task("first", 1.0, 0.1), Task("half", 0.3, 0.0, (0.5, 1.0, 2.0)), Task("rare", 2.0)]


def labelled() -> Loaded:
    """The first label is there, the second by halves, the third in one of twenty: in most steps
    some rank has none, and in some steps nobody has."""
    rng = np.random.default_rng(5)
    labels = np.stack([rng.integers(0, classes, EXAMPLES) for classes in CLASSES], axis=1)
    for head, share in ((1, 0.5), (2, 0.95)):
        labels[rng.random(EXAMPLES) < share, head] = -1
    labels[(labels[:, 1] >= 0) & (rng.random(EXAMPLES) < 0.7), 0] = -1
    return Loaded(images().everything, labels)


def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255, name="rescale")(pixels)
    x = keras.layers.Flatten(name="flat")(x)
    x = keras.layers.Dense(16, activation="tanh", name="hidden")(x)
    outputs = [keras.layers.Dense(n, name=f"logits{n}")(x) for n in CLASSES]
    return keras.Model(pixels, outputs)


def sgd():
    return keras.optimizers.SGD(0.05)


CASES = {
    "counted by the plan": {"counts": True},
    "counted by the ranks": {},
    "two passes": {"counts": True, "passes": 2},
    "overlapped": {"counts": True, "strategy": "overlapped"},
}
IN_QUICK = ("counted by the plan", "two passes")


@pytest.mark.parametrize(
    "case",
    [
        case if case in IN_QUICK else pytest.param(case, marks=pytest.mark.full_matrix)
        for case in CASES
    ],
)
def test_n_ranks_end_where_one_ends(world, case):
    data, options = labelled(), {"tasks": TASKS, **CASES[case]}
    weights = train(world, network(), data, sgd(), **options)
    alone = world.from_chief(lambda: train(World(), network(), data, sgd(), **options))
    assert largest_difference(weights, alone) <= FLOAT32_BOUND
    for other in world.gather(weights):
        assert all(np.array_equal(a, b) for a, b in zip(weights, other, strict=True))


def test_steps_of_their_own_use_their_own_counts(world):
    data = labelled()
    weights = train(world, network(), data, sgd(), tasks=TASKS, strategy="local", counts=True)
    assert all(np.isfinite(one).all() for one in weights)
    for other in world.gather(weights):
        assert all(np.array_equal(a, b) for a, b in zip(weights, other, strict=True))


def test_a_step_without_any_label_is_left_out(world):
    classifier = Classifier(network(), tasks=TASKS)
    classifier.compile(DistributedOptimizer(sgd(), world=world))
    before = [variable.numpy() for variable in classifier.trainable_variables]
    pixels = tf.zeros((3, 8, 8, 1))
    nothing = tf.constant(np.full((3, 3), -1))
    classifier.train_step((pixels, nothing))
    assert int(classifier.optimizer.iterations) == 0
    after = [variable.numpy() for variable in classifier.trainable_variables]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    one = np.full((3, 3), -1)
    one[1, 2] = 1 if world.rank == world.size - 1 else -1
    classifier.train_step((pixels, tf.constant(one)))
    assert int(classifier.optimizer.iterations) == 1
    rare, other = (classifier.network.get_layer(f"logits{n}").bias.numpy() for n in (2, 5))
    assert np.abs(rare).max() > 0 and np.abs(other).max() == 0


def test_each_head_is_scored_by_its_own_examples(world):
    classifier, data = Classifier(network(), tasks=TASKS), labelled()
    for variable in classifier.variables:
        variable.assign(world.broadcast(variable.numpy()))
    found, alone = evaluate(classifier, data, world), evaluate(classifier, data, World())
    logits = classifier.network(tf.cast(data.everything, tf.float32))
    for head, task in enumerate(TASKS):
        known = data.labels[:, head] >= 0
        scores = found.heads[task.name]
        assert scores.examples == known.sum()
        right = (logits[head].numpy().argmax(1) == data.labels[:, head])[known].mean()
        assert scores.accuracy == pytest.approx(right)
        np.testing.assert_array_equal(scores.confusion, alone.heads[task.name].confusion)
    assert found.accuracy == found.heads["first"].accuracy
    losses = [found.heads[task.name].loss * task.weight for task in TASKS]
    assert found.loss == pytest.approx(sum(losses))


def calibrated(classifier, data, world):
    """(temperatures, results, how sure of each label, gathered)."""
    parts = list(scored(classifier, data, world))
    temperatures = {}
    for head, task in enumerate(TASKS):
        logits = np.concatenate([np.zeros((0, CLASSES[head])), *(one[2][head] for one in parts)])
        labels = np.concatenate([np.zeros(0, np.int64), *(one[1][:, head] for one in parts)])
        known = labels >= 0
        temperatures[task.name] = fit_temperature(logits[known], labels[known], world.sum)
    sureness = [Sureness(0) for _ in TASKS]
    results = evaluate(classifier, data, world, 0, temperatures, sureness)
    return temperatures, results, [one.gathered(world) for one in sureness]


def test_each_head_is_calibrated_by_its_own_examples_as_by_one_process(world):
    data = labelled()
    classifier = Classifier(network(), tasks=TASKS)
    for variable in classifier.variables:
        variable.assign(world.broadcast(variable.numpy()))
    # As learned: the largest logit is right more often than not, but not always.
    pixels = tf.cast(data.everything, tf.float32)
    rng, labels = np.random.default_rng(2), data.labels.copy()
    for head, logits in enumerate(classifier.network(pixels)):
        said = logits.numpy().argmax(1)
        keeps = (labels[:, head] >= 0) & (rng.random(len(labels)) < 0.6)
        labels[keeps, head] = said[keeps]
    data = Loaded(data.everything, labels)
    temperatures, results, sure = calibrated(classifier, data, world)
    assert all(other == temperatures for other in world.gather(temperatures))
    alone = calibrated(classifier, data, World())
    assert temperatures == pytest.approx(alone[0], rel=1e-6)
    assert None not in temperatures.values()
    for task, rows, others in zip(TASKS, sure, alone[2], strict=True):
        new, old = results.heads[task.name], results.raw[task.name]
        np.testing.assert_array_equal(new.confusion, old.confusion)
        assert new.loss < old.loss
        assert len(rows) == new.examples
        np.testing.assert_allclose(np.sort(rows, axis=0), np.sort(others, axis=0), rtol=1e-5)


def write_table(path) -> None:
    """100 texts of 2 to 9 words with a label that some lack and one that most lack."""
    rng = np.random.default_rng(6)
    rows = ["text,topic,mood"]
    for number in range(100):
        words = " ".join(f"w{word}" for word in rng.integers(0, 30, rng.integers(2, 10)))
        topic = f"topic {number % 4}" if number % 7 or number < 50 else ""
        mood = "bad" if number % 11 == 0 else "good" if number % 5 == 0 or not topic else ""
        rows.append(f"{words},{topic},{mood}")
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("keys", [{}, {"imbalance": "class_weights", "shard_by": "label"}])
def test_n_ranks_learn_from_a_table_with_missing_labels_what_one_learns(world, directory, keys):
    path = directory / "table.csv"
    world.from_chief(lambda: write_table(path))
    common = {"label_key": "topic,mood", "model": "bag", "dropout": 0.0, "width": 8, "epochs": 8}
    how = {"task_weights": [1, 0.3], "label_smoothing": [0.1, 0], "validation": 0.1, "test": 0.1}
    config = config_of(directory, "table.csv auto", **common, **how, **keys)

    def learned(of):
        data = load_data(config, of)
        split = data.splits["train"]
        counts = labels_of_heads(split.labels)
        assert 0 < counts[1] < counts[0] < len(split)
        loop = loop_around(of, config, split, build_classifier(config, data.plan, split.labels))
        loop.run()
        assert loop.state.step >= 30
        weights = [variable.numpy() for variable in loop.classifier.trainable_variables]
        return weights, data.plan, evaluate(loop.classifier, data.splits["test"], of)

    weights, plan, results = learned(world)
    alone, plan_alone, results_alone = world.from_chief(lambda: learned(World()))
    assert plan.heads == plan_alone.heads and plan.fingerprint == plan_alone.fingerprint
    assert [head.name for head in plan.heads] == ["topic", "mood"]
    assert largest_difference(weights, alone) <= FLOAT32_BOUND
    for name, scores in results.heads.items():
        np.testing.assert_array_equal(scores.confusion, results_alone.heads[name].confusion)
    for other in world.gather(weights):
        assert all(np.array_equal(a, b) for a, b in zip(weights, other, strict=True))
