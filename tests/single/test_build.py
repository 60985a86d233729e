"""From a config to the things it describes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models.layers
from app.build import (
    build_classifier,
    build_optimizer,
    build_schedule,
)
from app.distributed.batch_norm import BatchNormalization
from app.distributed.world import World
from app.errors import UserError
from app.load import load_data
from app.recipe import load


class Ranks(World):
    """A world that says it has many ranks, and gathers as if all were like this one."""

    def __init__(self, size: int):
        self.size = size

    def gather(self, value):
        return [value] * self.size


@pytest.mark.parametrize(
    ("keys", "ranks", "message"),
    [
        ({"global_batch_size": 64}, 2000, "2000 ranks, but digits has 1294 training examples"),
        ({"per_rank_batch_size": 700}, 2, "per_rank_batch_size = 700 on 2 rank(s) and 1 pass(es)"),
        ({"global_batch_size": 1295}, 1, "global_batch_size = 1295 is more than the 1294"),
        ({"global_batch_size": 4}, 5, "cannot be dealt to 5 rank(s) x 1 pass(es)"),
        (
            {"global_batch_size": 6, "backward_passes_per_step": 4},
            2,
            "cannot be dealt to 2 rank(s) x 4 pass(es): give at least 8",
        ),
        ({"model": "textcnn"}, 1, "model 'textcnn' does not read images"),
    ],
)
def test_sizes_that_do_not_fit_the_data_are_refused(keys, ranks, message) -> None:
    with pytest.raises(UserError) as caught:
        load_data(load(None, keys), Ranks(ranks))
    assert message in str(caught.value)


def test_a_network_that_refuses_the_images_is_a_users_mistake() -> None:
    config = load(None, {"model": "resnet50"})
    data = load_data(config, World())
    with pytest.raises(UserError, match="model 'resnet50': .*32"):
        build_classifier(config, data.plan)


def test_who_trains_gets_a_batchnorm_of_all_ranks_and_who_predicts_the_networks_own() -> None:
    config = load(None, {"model": "resnet20", "width": 2, "sync_batch_norm": True})
    plan = load_data(config, World()).plan

    def kinds(world: World | None) -> set[type]:
        layers = build_classifier(config, plan, world=world).network.layers
        return {type(x) for x in layers if isinstance(x, keras.layers.BatchNormalization)}

    assert kinds(World()) == {BatchNormalization}
    assert kinds(None) == {models.layers.BatchNormalization}
    without = load(None, {"sync_batch_norm": True})
    with pytest.raises(UserError, match="sync_batch_norm: network 'cnn' has no BatchNorm; leave"):
        build_classifier(without, plan, world=World())


def test_equal_seeds_give_equal_weights_and_other_seeds_others() -> None:
    def weights(seed: int):
        config = load(None, {"seed": seed})
        return build_classifier(config, load_data(config, World()).plan).get_weights()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_peak_follows_the_global_batch_and_the_schedule_the_epochs() -> None:
    keys = {"learning_rate": 0.1, "reference_batch_size": 32, "per_rank_batch_size": 32}
    config = load(None, {**keys, "epochs": 2, "warmup_epochs": 1, "schedule": "constant"})
    schedule = build_schedule(config, 4)
    rates = [schedule.rate(step / 3, (step + 1) / 3) for step in range(6)]
    np.testing.assert_allclose(rates, [0.4 / 3, 0.8 / 3, 0.4, 0.4, 0.4, 0.4], rtol=1e-6)


def test_biases_and_batchnorm_do_not_decay() -> None:
    config = load(None, {"weight_decay": 0.5, "learning_rate_scaling": "none"})
    optimizer = build_optimizer(config, build_schedule(config, 1), World())
    model = keras.Sequential(
        [keras.layers.Input((2,)), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    )
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer.apply([np.zeros(v.shape, np.float32) for v in model.trainable_variables],
                    model.trainable_variables)  # fmt: skip
    moved = {v.name: bool((v.numpy() != 1).any()) for v in model.trainable_variables}
    assert moved == {"kernel": True, "bias": False, "gamma": False, "beta": False}


def test_lars_gets_its_momentum_and_a_decay_of_its_own() -> None:
    optimizer = optimizer_of(optimizer="lars", momentum=0.8, weight_decay=0.1, clip_norm=2.0)
    inner = optimizer.inner_optimizer
    assert (inner.momentum, inner.decay, inner.weight_decay) == (0.8, 0.1, None)
    assert inner.global_clipnorm == 2.0


def test_adamw_is_adam_with_a_decay_that_is_no_part_of_the_gradient() -> None:
    """Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, in NumPy."""
    keys = {"weight_decay": 0.1, "learning_rate": 0.01, "learning_rate_scaling": "none"}
    moved = {}
    for name in ("adam", "adamw"):
        kernel = keras.Variable(np.linspace(-1, 1, 6).reshape(2, 3), name="kernel")
        config = load(None, {"optimizer": name, **keys})
        rule = build_optimizer(config, build_schedule(config, 1), World())
        for step in range(3):
            rule.apply([tf.fill((2, 3), step - 0.5)], [kernel])
        moved[name] = kernel.numpy()
    np.testing.assert_array_equal(moved["adam"], moved["adamw"])
    weights, m, v = np.linspace(-1, 1, 6).reshape(2, 3), 0.0, 0.0
    for step in range(3):
        g = step - 0.5
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        part = (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-7)
        weights = weights - 0.01 * part - 0.01 * 0.1 * weights
    np.testing.assert_allclose(moved["adamw"], weights, atol=2e-5)


def optimizer_of(**keys):
    config = load(None, keys)
    world = Ranks(2)
    return build_optimizer(config, build_schedule(config, 2), world)


def test_topk_makes_momentum_and_clipping_instead_of_sgd_where_gradients_travel(
    caplog,
) -> None:
    keys = {"optimizer": "sgd", "momentum": 0.8, "clip_norm": 2.0}
    plain = optimizer_of(**keys)
    assert (plain.inner_optimizer.momentum, plain.inner_optimizer.global_clipnorm) == (0.8, 2.0)
    assert (plain.wire.momentum, plain.wire.clip_norm) == (0.0, None)
    topk = optimizer_of(compression="topk", topk_ratio=0.1, compress_from_epoch=2, **keys)
    assert (topk.inner_optimizer.momentum, topk.inner_optimizer.global_clipnorm) == (0.0, None)
    assert (topk.wire.momentum, topk.wire.clip_norm) == (0.8, 2.0)
    assert (topk.wire.topk_ratio, topk.wire.from_epoch) == (0.1, 2.0)
    rounds = optimizer_of(compression="topk", sync="local", sync_every_steps=8, **keys)
    assert (rounds.inner_optimizer.momentum, rounds.inner_optimizer.global_clipnorm) == (0.8, 2.0)
    assert (rounds.wire.momentum, rounds.wire.clip_norm) == (0.0, None)
    assert caplog.records == []
    assert optimizer_of(compression="topk", optimizer="adam").wire.momentum == 0.0
    assert "'topk' with optimizer 'adam' costs accuracy" in caplog.text
