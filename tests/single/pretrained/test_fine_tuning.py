"""Which stages of an encoder learn, and at which rate."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from app.build import build_optimizer, build_schedule
from app.classifier import Classifier
from app.config import Config
from app.data.batches import Loaded
from app.distributed.world import World
from app.errors import UserError
from app.loop import Loop
from app.pretrained import find
from app.pretrained.check import check_fine_tuning
from app.pretrained.fine_tuning import freeze, rates
from app.recipe import load
from app.state import TrainState, state_variables
from tests.single.pretrained.bert_files import WORDS, write_encoder

KEYS = {"dataset": "pydocs", "model": "bert", "max_tokens": 32, "learning_rate": 0.1}


def encoder(place: Path, **keys) -> tuple[Config, keras.Model]:
    config = load(None, {**KEYS, "pretrained": write_encoder(place), "dropout": 0.0, **keys})
    found = find.find(config)
    assert found is not None
    keras.utils.set_random_seed(0)  # of the head
    network = models.build_text_model(
        "bert", len(WORDS), 5, max_tokens=32, dropout=0.0, pretrained=found.network
    )
    find.load(config, found, network)
    return config, network


def by_stage(network: keras.Model, values) -> dict[str, set]:
    """The values of all variables, by the layer that they are in."""
    found: dict[str, set] = {}
    for variable, value in zip(network.trainable_variables, values, strict=True):
        found.setdefault(variable.path.split("/")[0], set()).add(value)
    return found


def test_the_head_keeps_its_rate_and_stages_decay_towards_the_input(tmp_path) -> None:
    config, network = encoder(tmp_path, encoder_learning_rate=0.01, layer_decay=0.5)
    found = by_stage(network, rates(config, [v.path for v in network.trainable_variables]))
    wanted = {"logits": 1, "block03": 0.1, "block02": 0.05, "block01": 0.025, "embeddings": 0.0125}
    assert {name: values.pop() for name, values in found.items()} == pytest.approx(wanted)


def test_rates_do_not_depend_on_what_is_frozen(tmp_path) -> None:
    config, network = encoder(tmp_path, layer_decay=0.5, freeze="embeddings")
    freeze(config, network, unfrozen=False)
    found = by_stage(network, rates(config, [v.path for v in network.trainable_variables]))
    assert found == {"logits": {1}, "block03": {1}, "block02": {0.5}, "block01": {0.25}}


# The length of LAMB's step goes by the norm of the weights, decayed by then.
@pytest.mark.parametrize(
    ("optimizer", "decay"), [("sgd", 0.5), ("adam", 0.5), ("lamb", 0.0), ("lars", 0.5)]
)
def test_a_step_and_its_weight_decay_go_by_these_rates(tmp_path, optimizer, decay) -> None:
    keys = {"optimizer": optimizer, "momentum": 0.0, "weight_decay": decay}
    keys |= {"learning_rate_scaling": "none", "schedule": "constant"}
    config, network = encoder(tmp_path, encoder_learning_rate=0.02, layer_decay=0.5, **keys)
    plain, same = encoder(tmp_path, **keys)
    moved = []
    for one, model in ((config, network), (plain, same)):
        rule = build_optimizer(one, build_schedule(one, 1), World())
        variables = model.trainable_variables
        before = [v.numpy() for v in variables]
        rule.apply([tf.ones(v.shape) * 0.1 for v in variables], variables)
        moved.append([v.numpy() - b for v, b in zip(variables, before, strict=True)])
    wanted = rates(config, [v.path for v in network.trainable_variables])
    for rate, slow, fast in zip(wanted, *moved, strict=True):
        assert np.abs(fast).max() > 0
        np.testing.assert_allclose(slow, rate * fast, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("frozen", "learn"),
    [
        ("none", {"embeddings", "block01", "block02", "block03", "logits"}),
        ("embeddings", {"block01", "block02", "block03", "logits"}),
        ("encoder", {"logits"}),
    ],
)
def test_what_is_frozen_has_no_slots_and_is_saved_once(tmp_path, frozen, learn) -> None:
    config, network = encoder(tmp_path, freeze=frozen)
    freeze(config, network, unfrozen=False)
    optimizer = build_optimizer(config, build_schedule(config, 1), World())
    optimizer.build(network.trainable_variables)
    assert {v.path.split("/")[0] for v in network.trainable_variables} == learn
    slots = " ".join(v.path for v in optimizer.variables)
    assert ("embeddings" in slots) == (frozen == "none")
    assert ("block01" in slots) == (frozen != "encoder")
    paths = [entry.path for entry in state_variables(network, optimizer)]
    of_table = [path for path in paths if "token_embeddings" in path.replace("/", "_")]
    assert len(of_table) == (3 if frozen == "none" else 1)
    freeze(config, network, unfrozen=True)
    assert len(network.trainable_variables) == len(network.weights)


def loop_of(place: Path, **keys) -> Loop:
    """Of 4 steps an epoch over made-up texts."""
    keys = {"epochs": 2, "global_batch_size": 8, "freeze": "encoder", "unfreeze_epoch": 1, **keys}
    config, network = encoder(place, **keys)
    classifier = Classifier(network)
    random = np.random.default_rng(0)
    ids = random.integers(5, len(WORDS), (32, 6)).astype(np.int32)
    split = Loaded(tf.constant(ids), random.integers(0, 5, 32))
    schedule = build_schedule(config, 1)

    def renew(state: TrainState) -> None:
        freeze(config, network, unfrozen=bool(state.unfrozen_at))
        state.optimizer = build_optimizer(config, schedule, World())
        classifier.compile(state.optimizer)
        state.optimizer.build(classifier.trainable_variables)

    state = TrainState(classifier, None, 0, renew=renew)
    renew(state)
    return Loop(config, World(), state, schedule, {"train": split}, [])


class Watch(keras.callbacks.Callback):
    """Notes after each step whether the encoder has moved, and at what rate."""

    def __init__(self, state: TrainState):
        super().__init__()
        self.state, self.moved, self.rates = state, [], []
        self.before = state.model.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        now = self.state.model.network.get_layer("block01").weights[0].numpy()
        self.moved.append(not any(np.array_equal(now, old) for old in self.before))
        self.rates.append(float(self.state.optimizer.learning_rate))


def test_unfreezing_begins_at_its_epoch_with_a_fresh_optimizer_and_a_short_warm_up(
    tmp_path,
) -> None:
    loop = loop_of(tmp_path, schedule="constant", learning_rate_scaling="none")
    watch = Watch(loop.state)
    loop.callbacks.callbacks.append(watch)
    first = loop.state.optimizer
    loop.run()
    assert watch.moved == [False] * 4 + [True] * 4
    np.testing.assert_allclose(watch.rates, 0.1)  # 4 steps an epoch: warm-up is over in the first
    assert loop.state.unfrozen_at == 4 and loop.state.step == 8
    assert loop.state.optimizer is not first
    assert int(first.iterations) == int(loop.state.optimizer.iterations) == 4


def test_the_warm_up_after_unfreezing_is_a_tenth_of_an_epoch() -> None:
    keys = {"epochs": 3, "unfreeze_epoch": 1, "freeze": "encoder", "schedule": "linear"}
    schedule = build_schedule(load(None, {**keys, "learning_rate_scaling": "none"}), 1)
    found = [schedule.rate(step / 100, (step + 1) / 100) for step in (0, 99, 100, 104, 109, 150)]
    full = [1e-3 * (1 - step / 300) for step in (0, 99, 100, 104, 109, 150)]
    np.testing.assert_allclose(np.divide(found, full), [1, 1, 0.1, 0.5, 1, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"pretrained": None}, "model 'bert' is not trained from nothing: give --pretrained"),
        ({"vocabulary_size": 9}, "vocabulary_size does not go with model = 'bert'"),
        ({"tokens": "characters"}, "tokens does not go with"),
        ({"ngrams": 2}, "ngrams does not go with"),
        ({"width": 64}, "width = 64: pretrained weights bring their own"),
        ({"init_from": "runs/x"}, "pretrained and init_from both"),
        ({"freeze": "encoder", "unfreeze_epoch": 10}, "the 10 epochs are over by then"),
        ({"model": "cnn", "pretrained": None, "freeze": "encoder"}, "freeze is for an encoder"),
        ({"model": "cnn", "pretrained": None, "layer_decay": 0.5}, "layer_decay is for an encoder"),
        ({"model": "bag", "pretrained": None, "pooling": "first"}, "pooling is for model = 'bert'"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys, message) -> None:
    given = {"pretrained": "somewhere", **KEYS, **keys}
    with pytest.raises(UserError) as caught:
        check_fine_tuning(load(None, {k: v for k, v in given.items() if v is not None}))
    assert message in str(caught.value)


def test_unfreezing_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="unfreeze_epoch goes with freeze"):
        load(None, {"unfreeze_epoch": 1})


def test_a_model_that_reads_no_pretrained_weights_is_named(tmp_path) -> None:
    with pytest.raises(
        UserError, match="model 'cnn' reads no pretrained weights: resnet18, .* bert"
    ):
        find.find(load(None, {"model": "cnn", "pretrained": tmp_path}))
