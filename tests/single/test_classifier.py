"""The one training step and the one test step, against steps written by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

import models
from app.classifier import Classifier
from app.data.batches import Batch, Feed, Loaded, Streamed
from app.data.examples import Examples
from app.data.order import EpochPlan
from app.data.text.vocabulary import Vocabulary
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.world import World
from app.evaluation.evaluate import evaluate
from models.table import names_of
from tests.single.models.small import small_model

SGD = keras.optimizers.SGD


def weights(classifier: Classifier) -> list[np.ndarray]:
    """All variables, those of the optimizer (its step count too) included."""
    return [v.numpy() for v in [*classifier.variables, *classifier.optimizer.variables]]


def assert_same(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def test_a_training_step_is_a_gradient_step_on_the_mean_loss(make_classifier, batch) -> None:
    inputs, labels = batch
    classifier = make_classifier(SGD(0.5), dropout=0.0)
    network = keras.models.clone_model(classifier.network)
    network.set_weights(classifier.network.get_weights())
    with tf.GradientTape() as tape:
        logits = network(inputs, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    for variable, gradient in zip(
        network.trainable_variables,
        tape.gradient(loss, network.trainable_variables),
        strict=True,
    ):
        variable.assign_sub(0.5 * gradient)

    logs = classifier.train_step(batch)
    for ours, theirs in zip(classifier.network.variables, network.variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)
    assert float(logs["loss"]) == pytest.approx(float(loss), abs=1e-6)
    correct = np.argmax(logits, axis=1) == labels
    assert float(logs["accuracy"]) == pytest.approx(correct.mean())


def test_metrics_weight_batches_by_their_examples(make_classifier, batch) -> None:
    inputs, labels = batch
    classifier = make_classifier(SGD(0.0), batch_norm=False, dropout=0.0)
    classifier.train_step((inputs[:7], labels[:7]))
    logs = classifier.train_step((inputs[7:], labels[7:]))
    expected = log_loss(labels, softmax(classifier(inputs).numpy()), labels=[0, 1, 2])
    assert float(logs["loss"]) == pytest.approx(expected, rel=1e-5)


def none_of(batch):
    return tuple(np.asarray(part)[:0] for part in batch)


def test_an_empty_batch_changes_nothing(make_classifier, batch) -> None:
    classifier = make_classifier(SGD(0.5, momentum=0.9))
    classifier.train_step(batch)
    before = weights(classifier)
    logs = classifier.train_step(none_of(batch))
    assert_same(weights(classifier), before)
    assert int(classifier.optimizer.iterations) == 1
    assert np.isfinite([float(value) for value in logs.values()]).all()


def test_a_compiled_step_takes_batches_of_every_size_even_empty(make_classifier, batch) -> None:
    compiled = make_classifier(SGD(0.5, momentum=0.9), dropout=0.0)
    eager = make_classifier(SGD(0.5, momentum=0.9), dropout=0.0)
    signature = [tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int64)]
    step = tf.function(lambda *data: compiled.train_step(data), input_signature=signature)
    inputs, labels = batch
    for rows in (0, 3, 0, 8):
        before = weights(compiled)
        logs = step(inputs[:rows], labels[:rows])
        if rows == 0:
            assert_same(weights(compiled), before)
        else:
            expected = eager.train_step((inputs[:rows], labels[:rows]))
            assert float(logs["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
        assert np.isfinite(float(logs["loss"]))
    assert step.experimental_get_tracing_count() == 1
    for one, other in zip(weights(compiled), weights(eager), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("sparse_as_dense", [True, False])
def test_embeddings_learn_alike_from_dense_and_sparse_gradients(sparse_as_dense: bool) -> None:
    keras.utils.set_random_seed(0)
    network = models.build_text_model("bag", 10, 3, max_tokens=5, width=4)
    classifier = Classifier(network)
    optimizer = DistributedOptimizer(
        SGD(0.5), world=World(), sparse_as_dense=sparse_as_dense, name="distributed"
    )
    classifier.compile(optimizer)
    tokens = np.array([[2, 2, 3], [4, 3, 0]], np.int32)  # 2 and 3 come twice
    labels = np.array([0, 2])
    table = network.get_layer("token_embedding").embeddings
    kernel = network.get_layer("logits").kernel.numpy()
    before = table.numpy()

    # d loss / d logits = (softmax - onehot) / 2; each token has its share of the mean vector.
    lookup = before[tokens]
    kept = (tokens > 0)[..., None]
    vectors = (lookup * kept).sum(axis=1) / kept.sum(axis=1)
    error = (softmax(vectors @ kernel) - np.eye(3)[labels]) / 2
    expected = before.copy()
    for row, text in enumerate(tokens):
        for token in text[text > 0]:
            expected[token] -= 0.5 * (error[row] @ kernel.T) / np.count_nonzero(text)

    signature = [tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None,), tf.int64)]
    step = tf.function(lambda *data: classifier.train_step(data), input_signature=signature)
    step(tokens[:0], labels[:0])
    np.testing.assert_array_equal(table.numpy(), before)
    step(tokens, labels)
    np.testing.assert_allclose(table.numpy(), expected, atol=1e-6)
    after = weights(classifier)
    step(tokens[:0], labels[:0])
    assert_same(weights(classifier), after)
    classifier.train_step((tokens[:0], labels[:0]))
    assert_same(weights(classifier), after)


LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]], np.float32)
LABELS = np.array([0, 1])


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
@pytest.mark.parametrize("soft", [None, [[0.7, 0.3, 0.0], [0.0, 0.6, 0.4]]])
def test_the_objective_is_that_of_numpy(make_classifier, amount, weights, soft) -> None:
    classifier = Classifier(make_classifier().network, amount, weights)
    targets = np.eye(3)[LABELS] if soft is None else np.array(soft)
    smoothed = targets * (1 - amount) + amount / 3
    expected = -(smoothed * np.log(softmax(LOGITS))).sum(axis=1)
    expected *= 1 if weights is None else targets @ np.array(weights)
    given = None if soft is None else tf.constant(soft, tf.float32)
    batch = Batch(None, tf.constant(LABELS), None, given)
    (objectives,) = classifier.objective.losses(batch, tf.constant(LOGITS))
    np.testing.assert_allclose(objectives, expected, rtol=1e-5)


def test_the_loss_of_a_test_has_neither_smoothing_nor_weights(make_classifier, batch) -> None:
    plain = make_classifier()
    changed = Classifier(plain.network, 0.5, [1.0, 2.0, 3.0])
    expected = {name: float(value) for name, value in plain.test_step(batch).items()}
    assert {name: float(value) for name, value in changed.test_step(batch).items()} == expected
    losses = changed.objective.tasks[0].losses(tf.constant(LABELS), tf.constant(LOGITS))
    np.testing.assert_allclose(losses, -np.log(softmax(LOGITS))[[0, 1], LABELS], rtol=1e-5)


def test_a_step_on_soft_targets_counts_accuracy_by_the_label(make_classifier, batch) -> None:
    classifier = make_classifier(dropout=0.0)
    inputs, labels = batch
    right = classifier(inputs, training=True).numpy().argmax(axis=1) == labels
    targets = tf.one_hot(labels, 3) * 0.7 + tf.one_hot((labels + 1) % 3, 3) * 0.3
    logs = classifier.train_step(Batch(inputs, labels, None, targets))
    assert float(logs["accuracy"]) == pytest.approx(right.mean())


@pytest.mark.parametrize("optimizer", [SGD(), "adam"])
def test_a_plain_optimizer_is_refused(make_classifier, optimizer) -> None:
    network = make_classifier().network
    with pytest.raises(ValueError, match=r"expected app.distributed.DistributedOptimizer\(...\)"):
        Classifier(network).compile(optimizer)


def test_fit_trains_and_validates(make_classifier, batch) -> None:
    classifier = make_classifier(keras.optimizers.Adam(0.05), dropout=0.0, batch_norm=False)
    data = tf.data.Dataset.from_tensor_slices(batch).batch(4)
    history = classifier.fit(
        data, validation_data=data, epochs=15, verbose=0, shuffle=False
    ).history
    assert history["loss"][-1] < history["loss"][0]
    expected = classifier.evaluate(data, return_dict=True, verbose=0)
    assert history["val_loss"][-1] == pytest.approx(expected["loss"], rel=1e-5)
    assert int(classifier.optimizer.iterations) == 30


def test_a_test_step_leaves_weights_and_statistics_alone(make_classifier, batch) -> None:
    classifier = make_classifier()
    before = weights(classifier)
    logs = classifier.test_step(batch)
    assert_same(weights(classifier), before)
    probabilities = softmax(classifier(batch[0], training=False).numpy())
    expected = log_loss(batch[1], probabilities, labels=[0, 1, 2])
    assert float(logs["loss"]) == pytest.approx(expected, rel=1e-5)


def test_an_empty_batch_does_not_count_in_a_test_step(make_classifier, batch) -> None:
    classifier = make_classifier()
    expected = {name: float(value) for name, value in classifier.test_step(batch).items()}
    logs = classifier.test_step(none_of(batch))
    assert {name: float(value) for name, value in logs.items()} == expected


@pytest.mark.parametrize("kind", ["image", "text"])
def test_evaluation_is_exact(kind: str) -> None:
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, 600)  # in batches of 256, 256 and 88
    if kind == "image":
        pixels = random.integers(0, 256, (600, 4, 4, 1)).astype(np.uint8)
        network = models.build_image_model("cnn", (4, 4, 1), 4, width=2, dropout=0.5)
        split = Loaded(tf.constant(pixels), labels)
        logits = network(pixels).numpy()
    else:
        texts = [" ".join(random.choice(["a", "b", "c"], 1 + i % 7)) for i in range(600)]
        network = models.build_text_model("bag", 5, 4, max_tokens=9, width=3)
        ids, _ = Vocabulary("words", 1, 9, ["a", "b", "c"]).encode(np.array(texts, object))
        split = Loaded(ids, labels, ids.row_lengths().numpy())
        logits = network(split.everything.to_tensor()).numpy()
    scores = evaluate(Classifier(network), split, World()).first
    predicted = logits.argmax(axis=1)
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(labels, predicted))
    assert scores.examples == 600
    assert scores.accuracy == accuracy_score(labels, predicted)
    assert scores.loss == pytest.approx(log_loss(labels, softmax(logits)), rel=1e-5)


def test_evaluation_follows_the_weights(make_classifier) -> None:
    keras.utils.set_random_seed(0)
    network = models.build_image_model("cnn", (4, 4, 1), 3, width=2)
    classifier = Classifier(network)
    pixels = np.zeros((5, 4, 4, 1), np.uint8)
    split = Loaded(tf.constant(pixels), np.array([0, 0, 1, 2, 2]))
    for wanted, hits in ((0, 2), (1, 1)):
        bias = np.zeros(3, np.float32)
        bias[wanted] = 5
        network.get_layer("logits").bias.assign(bias)
        scores = evaluate(classifier, split, World()).first
        assert np.trace(scores.confusion) == hits
        assert scores.confusion[:, wanted].tolist() == [2, 1, 2]


@pytest.mark.parametrize("name", names_of("text"))
def test_every_text_model_learns_from_batches_of_any_length(name: str) -> None:
    classifier = Classifier(small_model(name))
    classifier.compile(DistributedOptimizer(SGD(0.1), world=World()))
    classifier.optimizer.build(classifier.trainable_variables)
    step = tf.function(classifier.train_step, autograph=False, reduce_retracing=True)
    before = weights(classifier)
    for rows, tokens in ((4, 5), (2, 9), (0, 3), (3, 7)):
        ids = tf.ones((rows, tokens), tf.int32)
        step(Batch(ids, tf.zeros(rows, tf.int64), tf.constant(4, tf.int64)))
    assert any((a != b).any() for a, b in zip(before, weights(classifier), strict=True))


def reads_a_dict(network: keras.Model) -> keras.Model:
    """The same network of tokens with its mask as a second input, as those of KerasHub have."""
    tokens = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="bool", name="padding_mask")
    vectors = network.get_layer("token_embedding")(tokens)
    logits = network.get_layer("logits")(network.get_layer("average")(vectors, mask))
    return keras.Model({"token_ids": tokens, "padding_mask": mask}, logits)


@pytest.mark.parametrize("hold", ["memory", "stream"])
def test_a_network_of_a_dict_of_tensors_learns_what_one_of_a_tensor_learns(hold: str) -> None:
    texts = np.array([" ".join("abc"[: 1 + i % 3]) for i in range(11)], object)
    labels, tokenizer = np.arange(11) % 3, Vocabulary("words", 1, 9, ["a", "b", "c"])
    ids, lengths = tokenizer.encode(texts)

    def both(ids: tf.RaggedTensor) -> dict[str, tf.RaggedTensor]:
        return {"token_ids": ids, "padding_mask": ids.with_values(ids.values > 0)}

    if hold == "memory":
        split = Loaded(both(ids), labels, lengths.tokens)
    else:
        source = Examples(texts, labels)
        split = Streamed(source, lambda some: both(tokenizer.ids_of(some)), lengths.tokens)
    found = []
    for wanted, of_dict in ((Loaded(ids, labels, lengths.tokens), False), (split, True)):
        keras.utils.set_random_seed(1)
        network = models.build_text_model("bag", 5, 3, max_tokens=9, width=4)
        classifier = Classifier(reads_a_dict(network) if of_dict else network)
        classifier.compile(DistributedOptimizer(SGD(0.5), world=World()))
        classifier.optimizer.build(classifier.trainable_variables)
        step = tf.function(classifier.train_step, autograph=False, reduce_retracing=True)
        plan = EpochPlan(np.arange(11), 4, world_size=5)  # rank 4 has no example
        for rank in (0, 4, 3):
            for batch in Feed(wanted).training(plan, rank):
                assert tf.nest.is_nested(batch.inputs) == of_dict
                step(batch)
        found.append((weights(classifier), evaluate(classifier, wanted, World()).first))
    (plain, scores), (of_dict_too, same_scores) = found
    assert_same(plain, of_dict_too)
    np.testing.assert_array_equal(scores.confusion, same_scores.confusion)
    assert scores.loss == same_scores.loss
