"""The moving average of weights, and early stopping, between ranks."""

import json

import keras
import numpy as np
import pytest
import safetensors.numpy

from app.distributed.guard import ReplicasDiverged
from app.distributed.world import World
from app.recipe import load
from app.rundir.files import list_checkpoints
from app.train import train


def config(directory, **keys):
    keys = {"epochs": 2, "global_batch_size": 100, "ema_examples": 400, **keys}
    keys = {"schedule": "constant", "learning_rate": 3e-3, **keys}
    return load(None, {"run_dir": str(directory), **keys})


def newest(directory):
    path = list_checkpoints(directory / "checkpoints")[-1]
    return safetensors.numpy.load_file(path / "state.safetensors")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        pytest.param({"backward_passes_per_step": 2}, marks=pytest.mark.full_matrix),
        pytest.param(
            {"sync": "overlapped", "optimizer": "sgd", "learning_rate": 0.01},
            marks=pytest.mark.full_matrix,
        ),
    ],
    ids=["every step", "accumulated", "overlapped"],
)
def test_the_average_of_n_ranks_is_that_of_one(world, directory, keys):
    together = train(config(directory / "n", **keys), world=world)
    alone = world.from_chief(lambda: train(config(directory / "one", **keys), world=World()))
    with world.together():
        if world.is_chief:
            ours, theirs = newest(directory / "n"), newest(directory / "one")
            names = [name for name in ours if name.startswith("average/")]
            assert ours["average/made_at_example"] == theirs["average/made_at_example"] == 2 * 1294
            assert len(names) == 6 + 3
            for name in names:
                np.testing.assert_allclose(ours[name], theirs[name], atol=1e-4, err_msg=name)
            far = np.abs(ours["average/conv1_kernel"] - ours["conv1/kernel"]).max()
            assert far > 1e-3
    assert together["test_ema_loss"] == pytest.approx(alone["test_ema_loss"], rel=1e-3)
    assert together["test_ema_loss"] != together["test_loss"]


@pytest.mark.parametrize(
    ("sync", "steps"), [("local", 4), pytest.param("delayed", 4, marks=pytest.mark.full_matrix)]
)
def test_in_rounds_all_ranks_have_one_average(world, directory, sync, steps):
    """Compared, with all that a checkpoint holds, at each commit point."""
    found = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            average = self.model.weight_average
            found.append((int(average._made.numpy()), average._of_weights[0].numpy().tobytes()))

    keys = {"sync": sync, "sync_every_steps": steps, "log_every_steps": 1000}
    result = train(config(directory, **keys), world=world, callbacks=[Look()])
    ranks = world.gather(found)
    assert all(one == ranks[0] for one in ranks)  # after every step, not only at ends of rounds
    made = [place for place, _ in found]
    if sync == "local":  # 13 steps an epoch, whose last round is shorter
        assert made[:5] == [0, 0, 0, 400, 400]
        assert made[12:18] == [1200, 1294, 1294, 1294, 1694, 1694]
    else:
        assert set(made) == {0, 1294}
    assert 0 < result["test_ema_accuracy"] <= 1


def test_an_average_that_differs_between_ranks_is_noticed(world, directory):
    class Drift(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 5 and world.rank == 1:
                average = self.model.weight_average._of_weights[0]
                average.assign(average.value + 1e-7)

    with pytest.raises(ReplicasDiverged, match="average/conv1_kernel"):
        train(config(directory, guard_every_steps=7), world=world, callbacks=[Drift()])


def test_all_ranks_stop_after_the_same_epoch_and_again_when_resumed(world, directory):
    keys = {"epochs": 30, "early_stopping_epochs": 2, "learning_rate": 0.05, "keep_best": "loss"}
    keys |= {"ema_examples": None}
    first = train(config(directory, **keys), world=world)
    stopped = first["early_stopping"]
    assert stopped["ended_the_run"] and first["epoch"] == stopped["best_epoch"] + 2 < 30
    assert len(set(world.gather((first["epoch"], stopped["best"])))) == 1
    again = train(config(directory, **keys), world=world, resume=True)
    assert (again["epoch"], again["step"]) == (first["epoch"], first["step"])
    assert again["early_stopping"] == stopped
    with world.together():
        if world.is_chief:
            scores = [
                json.loads((path / "score.json").read_text())["loss"]
                for path in list_checkpoints(directory / "checkpoints")
            ]
            assert min(scores) == pytest.approx(stopped["best"])
