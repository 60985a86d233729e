"""The whole story on several ranks: train, evaluate, save, resume."""

import json

import keras
import numpy as np
import pytest
import safetensors.numpy
from sklearn.metrics import confusion_matrix, log_loss

import models
from app.classifier import Classifier
from app.distributed.world import World
from app.errors import UserError
from app.evaluation.evaluate import evaluate
from app.recipe import load
from app.rundir.files import list_checkpoints
from app.train import train
from tests.parallel.killed import normed
from tests.parallel.runs import CLASSES, image_network, images


@pytest.fixture
def directory(world, tmp_path):
    """The chief's temporary directory, on every rank."""
    return world.broadcast(tmp_path)


def digits(directory, **keys):
    keys = {"epochs": 2, "global_batch_size": 50, "run_dir": str(directory / "run"), **keys}
    return load(None, keys)


def arrays(directory, number=-1):
    """Of the newest checkpoint, or one before."""
    path = list_checkpoints(directory / "run" / "checkpoints")[number]
    return safetensors.numpy.load_file(path / "state.safetensors")


def test_exact_evaluation_equals_scikit_learn_and_one_process(world):
    keras.utils.set_random_seed(4)
    classifier = Classifier(image_network())
    data = images()
    scores = evaluate(classifier, data, world).first
    logits = classifier.predict(data.everything.numpy().astype("float32"), verbose=0)
    labels = data.labels
    expected = confusion_matrix(labels, logits.argmax(1), labels=range(CLASSES))
    assert scores.confusion.tolist() == expected.tolist()
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    assert scores.loss == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    alone = evaluate(classifier, data, World()).first
    assert alone.confusion.tolist() == scores.confusion.tolist()


def test_a_run_leaves_everything_behind_and_a_resumed_one_ends_the_same(world, directory):
    whole = train(digits(directory / "whole", dropout=0.2), world=world)

    # One epoch of two, with the schedule of two: what an interrupted run leaves behind.
    parted = directory / "parted"
    train(digits(parted, dropout=0.2), world=world, callbacks=[StopAfter(1)])
    resumed = train(digits(parted, dropout=0.2), world=world, resume=True)
    assert resumed["epoch"] == whole["epoch"] == 2
    assert resumed["step"] == whole["step"]
    about = json.loads((directory / "whole" / "run" / "data_plan" / "plan.json").read_text())
    assert resumed["examples_trained_on"] == whole["examples_trained_on"]
    assert whole["examples_trained_on"] == 2 * about["examples"]["train"]
    left, right = arrays(directory / "whole"), arrays(parted)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    run = directory / "whole" / "run"
    assert json.loads((run / "metrics.json").read_text())["test_accuracy"] == whole["test_accuracy"]
    for name in (
        "config.toml",
        "data_plan/plan.json",
        "logs/rank-001.log",
        "tensorboard/train",
        "checkpoints",
    ):
        assert (run / name).exists(), name


@pytest.mark.full_matrix
def test_resume_in_an_empty_directory_starts_fresh(world, directory):
    result = train(digits(directory, epochs=1), world=world, resume=True)
    assert result["epoch"] == 1


class StopAfter(keras.callbacks.Callback):
    """Ends training after an epoch, as an interruption would."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 == self.epochs


def test_a_run_that_is_resumed_at_another_world_size_goes_on_learning(world, directory):
    rates = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    keys = {"epochs": 4, "global_batch_size": None, "per_rank_batch_size": 50}
    config = digits(directory, **keys, learning_rate_scaling="none", learning_rate=1e-3)
    world.from_chief(lambda: train(config, world=World(), callbacks=[StopAfter(2)]) and None)
    before = arrays(directory)
    resumed = train(config, world=world, resume=True, callbacks=[Look()])
    after = arrays(directory)
    # The cosine goes on from the middle: half of the peak, and nearly 0 with the last step alone.
    assert rates[0] == pytest.approx(0.5e-3)
    assert resumed["epoch"] == 4 and min(rates) > 0
    moved = max(float(abs(after[path] - before[path]).max()) for path in before if "kernel" in path)
    assert moved > 0.01


def test_a_resumed_run_keeps_its_config_and_a_refused_one_overwrites_nothing(world, directory):
    config = digits(directory, learning_rate=0.002, width=4)
    train(config, world=world, callbacks=[StopAfter(1)])
    run = directory / "run"
    kept = world.from_chief(lambda: (run / "config.toml").read_text())
    alone = load(None, {"run_dir": str(run)})
    with pytest.raises(UserError, match="was trained with optimizer = 'adam', not 'sgd'"):
        train(load(None, {"run_dir": str(run), "optimizer": "sgd"}), world=world, resume=True)
    assert world.from_chief(lambda: (run / "config.toml").read_text()) == kept
    train(alone, world=world, resume=True)  # no flag is repeated
    assert world.from_chief(lambda: (run / "config.toml").read_text()) == kept
    assert arrays(directory).keys() == arrays(directory, 0).keys()


def test_what_was_learned_is_saved_before_a_callback_can_fail(world, directory):
    class Fail(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("the figure cannot be drawn")

    with pytest.raises(RuntimeError, match="cannot be drawn"):
        train(digits(directory), world=world, callbacks=[Fail()])
    assert arrays(directory)


def test_what_ranks_do_not_share_is_never_saved(world, directory):
    from app.distributed.guard import ReplicasDiverged

    class Drift(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 30 and world.rank == 1:
                bias = self.model.trainable_variables[-1]
                bias.assign(bias.value + 1e-7)

    with pytest.raises(ReplicasDiverged, match="logits/bias"):
        config = digits(directory, epochs=4, guard_every_steps=1000)
        train(config, world=world, callbacks=[Drift()])
    found = world.from_chief(lambda: [p.name for p in (directory / "run/checkpoints").iterdir()])
    assert found == ["step-00000026"]  # the end of the first epoch


def test_a_second_run_in_a_directory_is_refused_on_all_ranks(world, directory):
    from app.rundir.lock import RunLock

    lock = RunLock(directory / "run")
    world.from_chief(lock.acquire)
    try:
        with pytest.raises(UserError, match="is in use"):
            train(digits(directory), world=world)
    finally:
        world.barrier()
        lock.release()


def test_the_guard_stops_a_run_whose_replicas_part(world, directory):
    from app.distributed.guard import ReplicasDiverged

    class Drift(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3 and world.rank == 1:
                bias = self.model.trainable_variables[-1]
                bias.assign(bias.value + 1e-7)

    with pytest.raises(ReplicasDiverged, match="logits/bias"):
        train(digits(directory, guard_every_steps=5), world=world, callbacks=[Drift()])


def test_more_ranks_than_the_batch_is_refused_on_all_ranks(world, directory):
    with pytest.raises(UserError, match=f"cannot be dealt to {world.size} rank"):
        train(digits(directory, global_batch_size=1), world=world)
    world.barrier()  # the chief has given the directory back
    assert not (directory / "run").exists()


def test_a_rank_with_another_config_is_named(world, directory):
    other = world.rank == world.size - 1
    told = f"rank {world.size - 1} differs from rank 0 in config key 'seed'"
    with pytest.raises(UserError, match=told):
        train(digits(directory, seed=1 if other else 0), world=world)


@pytest.mark.full_matrix
def test_statistics_of_batchnorm_are_equal_on_all_ranks_when_saved(world, directory, monkeypatch):
    monkeypatch.setattr(models, "build_image_model", lambda name, *a, **k: normed(*a, **k))
    found = {}

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            layer = next(
                x
                for x in self.model._flatten_layers()
                if isinstance(x, keras.layers.BatchNormalization)
            )
            found["mean"] = layer.moving_mean.numpy().tolist()

    config = digits(directory, epochs=1, global_batch_size=200)
    train(config, world=world, callbacks=[Look()])
    gathered = world.gather(found["mean"])
    assert all(mean == gathered[0] for mean in gathered)
    assert any(abs(value) > 0 for value in gathered[0])
