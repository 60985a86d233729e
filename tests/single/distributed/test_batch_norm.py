"""BatchNorm over all ranks against Keras' own on their rows together. Ranks are threads here."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from app.classifier import Classifier
from app.distributed.batch_norm import BatchNormalization, statistics, synchronised
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync
from app.distributed.world import World
from app.state import Kind, state_variables
from tests.single.distributed.threads import on_ranks

CHANNELS = 5
OPTIONS = {"momentum": 0.8, "epsilon": 1e-4, "name": "norm", "dtype": "float64"}


def made(kind=BatchNormalization, shape=(2, 3), **options):
    """A layer with a scale and an offset that are not those of the beginning."""
    layer = kind(**OPTIONS, **options)
    layer.build((None, *shape, CHANNELS))
    rng = np.random.default_rng(1)
    layer.set_weights([rng.uniform(0.5, 2, CHANNELS) for _ in range(4)])
    return layer


def results(layer, rows, towards):
    """Outputs, the gradients of sum(towards * outputs ** 2) for rows, gamma and beta, and the
    moving statistics after the step."""
    rows = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        outputs = layer(rows, training=True)
        loss = tf.reduce_sum(towards * outputs**2)
    gradients = tape.gradient(loss, [rows, *layer.trainable_variables])
    moving = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    return outputs.numpy(), [one.numpy() for one in gradients], moving


@pytest.mark.parametrize("sizes", [(6,), (1, 4), (3, 0, 5)])
@pytest.mark.parametrize("shape", [(2, 3), ()])
def test_ranks_get_what_keras_gets_from_their_rows_together(sizes, shape) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(3.0, 2.0, (sum(sizes), *shape, CHANNELS))
    towards = rng.normal(size=rows.shape)
    expected = made(keras.layers.BatchNormalization, shape)
    outputs, (of_rows, of_gamma, of_beta), moving = results(expected, rows, towards)
    ends = np.cumsum(sizes)[:-1]
    layers = [made(shape=shape, world=World()) for _ in sizes]

    def work(world):
        layer = layers[world.rank]
        layer.world = world
        own, onto = np.split(rows, ends)[world.rank], np.split(towards, ends)[world.rank]
        if not len(own):  # a row that counts nothing
            own, onto = np.full((1, *shape, CHANNELS), np.nan), np.ones((1, *shape, CHANNELS))
            layer.begin_pass(tf.zeros([1]))
            found = results(layer, own, onto)
            layer.end_pass()
            return found[0][:0], found[1], (layer.moving_mean.numpy(), found[2][1])
        return results(layer, own, onto)

    found = on_ranks(len(sizes), work)
    same = {"rtol": 1e-11, "atol": 1e-11}
    np.testing.assert_allclose(np.concatenate([one[0] for one in found]), outputs, **same)
    own = [one[1][0][: len(one[0])] for one in found]
    np.testing.assert_allclose(np.concatenate(own), of_rows, **same)
    np.testing.assert_allclose(sum(one[1][1] for one in found), of_gamma, **same)
    np.testing.assert_allclose(sum(one[1][2] for one in found), of_beta, **same)
    for layer in layers:
        np.testing.assert_allclose(layer.moving_mean.numpy(), moving[0], **same)
        np.testing.assert_allclose(layer.moving_variance.numpy(), moving[1], **same)


def test_rows_count_as_much_as_their_weights() -> None:
    """A row of weight 2 is two rows of weight 1, and one of weight 0 is none, whatever it holds."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(3, 2, 3, CHANNELS))
    towards = rng.normal(size=rows.shape)
    expected = made(keras.layers.BatchNormalization)
    twice = [0, 1, 1, 2]
    outputs, gradients, moving = results(expected, rows[twice], towards[twice])
    layer = made(world=World())
    layer.begin_pass(tf.constant([1.0, 2.0, 1.0, 0.0]))
    nothing = np.full((1, 2, 3, CHANNELS), np.inf)
    weighted = np.concatenate([towards * np.array([1, 2, 1])[:, None, None, None], nothing])
    found = results(layer, np.concatenate([rows, nothing]), weighted)
    layer.end_pass()
    np.testing.assert_allclose(found[0][:3], outputs[[0, 1, 3]], rtol=1e-11)
    np.testing.assert_array_equal(found[0][3], np.broadcast_to(layer.beta, (2, 3, CHANNELS)))
    by_row = [gradients[0][0], gradients[0][1] + gradients[0][2], gradients[0][3]]
    np.testing.assert_allclose(found[1][0][:3], by_row, rtol=1e-9, atol=1e-11)
    assert (found[1][0][3] == 0).all()
    for one, other in zip(found[1][1:], gradients[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)
    np.testing.assert_allclose(layer.moving_mean.numpy(), moving[0], rtol=1e-11)
    np.testing.assert_allclose(layer.moving_variance.numpy(), moving[1], rtol=1e-11)


def test_a_mean_far_from_0_costs_no_digits() -> None:
    """In float32 a mean of squares less the square of a mean would have none left here."""
    rng = np.random.default_rng(3)
    parts = [(offset + rng.normal(size=(50, 1))).astype(np.float32) for offset in (4000, 4003)]

    def variance(world):
        found = statistics(tf.constant(parts[world.rank]), None, world, "test")
        return float(found.variance[0]), found.variance.dtype

    for found, dtype in on_ranks(2, variance):
        assert dtype == tf.float32
        assert found == pytest.approx(np.concatenate(parts).astype(np.float64).var(), rel=1e-4)


@pytest.mark.parametrize("rows", ["none that counts", "not finite"])
def test_a_pass_that_says_nothing_moves_nothing(rows: str) -> None:
    layer = made(world=World())
    before = layer.get_weights()
    layer.begin_pass(tf.zeros([2]) if rows == "none that counts" else None)
    inputs = np.ones((2, 2, 3, CHANNELS))
    inputs[1, 0, 0, 0] = np.nan
    layer(inputs, training=True)
    layer.end_pass()
    for one, other in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_frozen_layer_and_a_prediction_exchange_nothing() -> None:
    class Alone(World):
        def allreduce(self, tensor, name):
            raise AssertionError(f"{name} was exchanged")

    layer = made(world=Alone())
    expected = made(keras.layers.BatchNormalization)
    rows = np.random.default_rng(4).normal(size=(2, 2, 3, CHANNELS))
    np.testing.assert_array_equal(layer(rows, training=False), expected(rows, training=False))
    layer.trainable = expected.trainable = False
    layer.begin_pass(None)
    np.testing.assert_array_equal(layer(rows, training=True), expected(rows, training=True))
    layer.end_pass()
    layer.trainable = True
    with pytest.raises(AssertionError, match="batch_norm.norm.forward was exchanged"):
        layer(rows, training=True)


def test_half_precision_has_statistics_of_float32() -> None:
    layer = BatchNormalization(name="norm", dtype="mixed_float16", world=World())
    rows = (100 + np.random.default_rng(5).normal(size=(600, 4))).astype(np.float16)
    outputs = layer(rows, training=True)  # the sum of squares is far above what float16 holds
    assert outputs.dtype == tf.float16
    assert layer.moving_mean.dtype == "float32"
    expected = 0.99 * 1 + 0.01 * rows.astype(np.float64).var(axis=0)
    np.testing.assert_allclose(layer.moving_variance.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(outputs, np.float64).std(axis=0), 1, atol=0.01)


# Whole networks.


@pytest.mark.parametrize(
    "name", ["resnet20", pytest.param("efficientnetv2", marks=pytest.mark.full_matrix)]
)
def test_a_network_is_the_same_but_for_its_statistics(name: str) -> None:
    width = 4 if name == "resnet20" else None
    plain = models.build_image_model(name, (32, 32, 3), 3, width=width, dropout=0.1)
    copy = synchronised(plain, World())
    assert copy.name == plain.name
    assert [v.path for v in copy.variables] == [v.path for v in plain.variables]
    for one, other in zip(copy.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    norms = [x for x in plain.layers if isinstance(x, keras.layers.BatchNormalization)]
    joint = [x for x in copy.layers if isinstance(x, BatchNormalization)]
    assert [x.name for x in joint] == [x.name for x in norms] and joint
    assert {(x.momentum, x.epsilon) for x in joint} == {(x.momentum, x.epsilon) for x in norms}
    kinds = {entry.kind for entry in state_variables(copy)}
    assert kinds == {Kind.REPLICATED, Kind.DERIVED}
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(copy(pixels, training=False), plain(pixels, training=False))


def test_files_of_keras_weights_fit_too(tmp_path, make_classifier) -> None:
    plain = make_classifier().network
    for number, variable in enumerate(plain.weights):
        variable.assign(np.full(variable.shape, number))
    plain.save_weights(tmp_path / "plain.weights.h5")
    copy = synchronised(make_classifier(seed=1).network, World())
    copy.load_weights(tmp_path / "plain.weights.h5")
    for one, other in zip(copy.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)


def test_what_cannot_be_synchronised_is_refused() -> None:
    cnn = models.build_image_model("cnn", (8, 8, 1), 3, width=2)
    with pytest.raises(ValueError, match="network 'cnn' has no BatchNorm"):
        synchronised(cnn, World())
    of_axis_1 = BatchNormalization(axis=1, name="norm", world=World())
    with pytest.raises(ValueError, match="'norm' has axis 1: expected the last one"):
        of_axis_1.build((None, 2, 3))
    with pytest.raises(ValueError, match="'norm': renorm does not go"):
        BatchNormalization(renorm=True, name="norm", world=World())


def synchronised_classifier(make_classifier, **options) -> Classifier:
    plain = make_classifier(dropout=0.0)
    classifier = Classifier(synchronised(plain.network, World()))
    optimizer = DistributedOptimizer(
        keras.optimizers.SGD(0.5, momentum=0.9), world=World(), name="distributed", **options
    )
    classifier.compile(optimizer)
    optimizer.build(classifier.trainable_variables)
    return classifier


def everything(classifier: Classifier) -> list[np.ndarray]:
    return [v.numpy() for v in [*classifier.variables, *classifier.optimizer.variables]]


def test_one_rank_takes_the_step_that_it_takes_with_keras_layer(make_classifier, batch) -> None:
    plain = make_classifier(keras.optimizers.SGD(0.5, momentum=0.9), dropout=0.0)
    joint = synchronised_classifier(make_classifier)
    for _ in range(5):
        expected, logs = plain.train_step(batch), joint.train_step(batch)
    for one, other in zip(joint.network.variables, plain.network.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=2e-6, err_msg=one.path)
    assert float(logs["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
    assert float(logs["accuracy"]) == float(expected["accuracy"])


def test_a_compiled_step_takes_batches_of_every_size_and_an_empty_one_changes_nothing(
    make_classifier, batch
) -> None:
    compiled, eager = (synchronised_classifier(make_classifier) for _ in range(2))
    signature = [tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int64)]
    step = tf.function(lambda *data: compiled.train_step(data), input_signature=signature)
    inputs, labels = batch
    for rows in (0, 3, 0, 8):
        before = everything(compiled)
        logs = step(inputs[:rows], labels[:rows])
        eager.train_step((inputs[:rows], labels[:rows]))
        if rows == 0:
            for one, other in zip(everything(compiled), before, strict=True):
                np.testing.assert_array_equal(one, other)
        assert np.isfinite(float(logs["loss"]))
    assert int(compiled.optimizer.iterations) == 2
    for one, other in zip(everything(compiled), everything(eager), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_ranks_that_take_steps_of_their_own_are_refused(make_classifier) -> None:
    with pytest.raises(ValueError, match="strategy='local' lets models differ .*'norm'"):
        synchronised_classifier(make_classifier, strategy="local", sync=Sync(every_steps=2))
