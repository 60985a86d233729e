"""Training on parameter servers, with two workers and two servers."""

import json

import keras
import numpy as np
import pytest

from app.checkpoints.files import read_files
from app.commands.evaluate_run import evaluate_run
from app.commit import Commits
from app.distributed.world import World
from app.errors import UserError
from app.health import Health
from app.parameter_servers import coordinator as coordinators
from app.parameter_servers.dealer import Dealer
from app.recipe import load
from app.rundir.files import RunFiles, list_checkpoints
from app.train import train
from tests.integration.bad_input import picture

DIGITS = {"dataset": "digits", "width": "4", "per_rank_batch_size": "128", "epochs": "2"}
EXAMPLES, BATCHES = 1294, 11  # of digits, and of an epoch
CLOSE = 2e-6


def run(world, directory, resume=False, callbacks=(), **keys):
    config = load(None, DIGITS | {"run_dir": str(directory)} | keys)
    return train(config, world=world, resume=resume, callbacks=callbacks)


def arrays(directory):
    found, meta, _ = read_files(list_checkpoints(RunFiles(directory).checkpoints)[-1])
    return found, meta


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(np.abs(one[key] - other[key]).max() for key in one)


WAYS = {
    "adam": {},
    "sgd": {"optimizer": "sgd", "momentum": "0.9", "clip_norm": "1", "weight_decay": "0.001"},
    "lamb": {"optimizer": "lamb", "warmup_epochs": "1"},
    "BatchNorm": {
        "model": "resnet20",
        "epochs": "1",
        "per_rank_batch_size": "512",
        "optimizer": "sgd",
    },
    "dropout": {"dropout": "0.3"},
    "augmented": {"crop_padding": "1", "mixup": "0.2", "epochs": "1"},
    "texts": {"dataset": "pydocs", "model": "bag", "width": "8", "epochs": "1"},
}


QUICK = ("adam", "sgd", "dropout")


@pytest.mark.parametrize(
    "way",
    [way if way in QUICK else pytest.param(way, marks=pytest.mark.full_matrix) for way in WAYS],
)
def test_one_worker_without_staleness_is_the_synchronous_run(
    coordinator, one_at_a_time, tmp_path, way
):
    keys = WAYS[way] | {"max_staleness": "0"}
    served = run(coordinator, tmp_path / "served", **keys)
    alone = run(World(), tmp_path / "alone", **keys)
    (mine, meta), (theirs, expected) = arrays(tmp_path / "served"), arrays(tmp_path / "alone")
    assert largest_difference(mine, theirs) < CLOSE
    assert meta["step"] == expected["step"] and meta["epoch"] == expected["epoch"]
    for name, sums in expected["metrics"].items():
        assert meta["metrics"][name] == pytest.approx(sums, rel=1e-5)
    assert served["test_loss"] == pytest.approx(alone["test_loss"], abs=1e-5)
    assert served["parameter_servers"]["staleness_max"] == 0


class Notes(keras.callbacks.Callback):
    """The logs of each epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


def test_every_example_comes_once_in_an_epoch_and_all_workers_take_part(
    coordinator, tmp_path, monkeypatch
):
    places: list[np.ndarray] = []
    deal = Dealer.deal

    def noted(self, step, share, epoch, rate):
        places.append(epoch * EXAMPLES + share.positions)
        deal(self, step, share, epoch, rate)

    monkeypatch.setattr(Dealer, "deal", noted)
    notes = Notes()
    found = run(coordinator, tmp_path, callbacks=[notes], epochs="6", learning_rate="0.01")
    assert sorted(np.concatenate(places)) == list(range(6 * EXAMPLES))
    assert found["step"] == 6 * BATCHES and found["examples_trained_on"] == 6 * EXAMPLES
    about = found["parameter_servers"]
    assert sum(about["batches"]) == 6 * BATCHES and min(about["batches"]) > 0
    assert about["dealt_again"] == 0
    assert found["test_accuracy"] > 0.6
    # The sums behind a mean over 1,294 examples are whole numbers.
    hits = notes.epochs[-1]["accuracy"] * EXAMPLES
    assert hits == pytest.approx(round(hits), abs=1e-3)


def test_what_was_done_asynchronously_is_counted_in_the_checkpoint(coordinator, tmp_path):
    """Workers count without a lock, so the servers' own count is too small."""
    run(coordinator, tmp_path)
    found, _ = arrays(tmp_path)
    path = "adam/iteration"
    assert int(found[path]) == 2 * BATCHES


def test_at_a_commit_point_nothing_is_under_way(coordinator, tmp_path, monkeypatch):
    under_way, make, dealers = [], Commits.make, []
    create = Dealer.__init__

    def created(self, *arguments):
        create(self, *arguments)
        dealers.append(self)

    def noted(self, *arguments):
        under_way.append((self._state.step, dealers[-1].in_flight))
        return make(self, *arguments)

    monkeypatch.setattr(Dealer, "__init__", created)
    monkeypatch.setattr(Commits, "make", noted)
    run(coordinator, tmp_path, commit_every_steps="4", keep_checkpoints="9")
    assert under_way == [(4, 0), (8, 0), (11, 0), (12, 0), (16, 0), (20, 0), (22, 0)]


class StopAt(keras.callbacks.Callback):
    """Wants to stop at a batch."""

    def __init__(self, batch):
        super().__init__()
        self._batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if batch == self._batch:
            self.model.stop_training = True


def test_a_run_goes_on_here_and_elsewhere(coordinator, tmp_path):
    stopped = run(coordinator, tmp_path, callbacks=[StopAt(1)], commit_every_steps="4")
    assert stopped["step"] == 4
    again = run(coordinator, tmp_path, resume=True, callbacks=[StopAt(5)])
    assert again["step"] == 8
    done = run(World(), tmp_path, resume=True)
    assert (done["step"], done["epoch"]) == (2 * BATCHES, 2)
    assert done["examples_trained_on"] == 2 * EXAMPLES
    scores = evaluate_run(tmp_path, {}, None, None, World())
    assert scores["accuracy"] == pytest.approx(done["test_accuracy"])


def test_a_worker_with_other_data_is_named(coordinator, tmp_path, monkeypatch):
    prepare = coordinators.Coordinator.prepare

    def changed(self, directory):
        file = RunFiles(tmp_path).data_plan
        plan = json.loads(file.read_text())
        file.write_text(json.dumps(plan | {"fingerprint": "another"}))
        return prepare(self, directory)

    monkeypatch.setattr(coordinators.Coordinator, "prepare", changed)
    with pytest.raises(UserError, match=r"^worker 0 at 127.*the data has changed since"):
        run(coordinator, tmp_path)


def test_a_worker_with_other_code_is_named(coordinator, tmp_path, monkeypatch):
    monkeypatch.setattr(coordinators, "code_version", lambda: {"code": "f00"})
    with pytest.raises(UserError, match=r"^worker 0 at 127.*differs from the coordinator in code"):
        run(coordinator, tmp_path)


def test_more_servers_than_variables_are_refused(coordinator, tmp_path, monkeypatch):
    monkeypatch.setattr(coordinator, "servers", 1000)
    with pytest.raises(UserError, match=r"1000 servers, but the model has \d+ variables"):
        run(coordinator, tmp_path)


def test_numbers_that_are_not_finite_are_left_out_and_end_the_run(coordinator, tmp_path):
    keys = {"optimizer": "sgd", "learning_rate": "1e30", "stop_after_bad_steps": "3"}
    with pytest.raises(UserError, match="3 steps in a row .*was not finite"):
        run(coordinator, tmp_path, **keys)


def test_a_run_of_ranks_with_what_is_refused_does_not_go_on_here(coordinator, tmp_path):
    keys = {"compression": "fp16", "commit_every_steps": "4"}
    run(World(), tmp_path, callbacks=[StopAt(1)], **keys)
    with pytest.raises(UserError, match="compression = 'fp16'"):
        run(coordinator, tmp_path, resume=True)
    found = run(coordinator, tmp_path, resume=True, callbacks=[StopAt(5)], compression="none")
    assert found["step"] == 8


def test_half_precision_histograms_and_the_best_checkpoint(coordinator, tmp_path):
    keys = {"precision": "mixed_bfloat16", "histograms": "true", "keep_best": "accuracy"}
    found = run(coordinator, tmp_path, epochs="1", learning_rate="0.01", **keys)
    assert np.isfinite(found["test_loss"]) and found["step"] == BATCHES


def test_after_a_jump_of_the_loss_it_goes_on_from_the_newest_checkpoint(
    coordinator, tmp_path, monkeypatch
):
    seen, see_loss = [], Health.see_loss

    def jumps_once(self, step, mean, examples):
        see_loss(self, step, mean, examples)
        seen.append(step)
        return seen.count(8) == 1 and step == 8

    monkeypatch.setattr(Health, "see_loss", jumps_once)
    keys = {"on_loss_spike": "go_back", "commit_every_steps": "4", "checkpoint_every_commits": "1"}
    found = run(coordinator, tmp_path, **keys)
    assert seen.count(8) == 2 and found["step"] == 2 * BATCHES
    _, meta = arrays(tmp_path)
    assert meta["halvings"] == 1


class Removes(keras.callbacks.Callback):
    """Removes files once training has begun."""

    def __init__(self, folder):
        super().__init__()
        self._folder = folder

    def on_train_batch_end(self, batch, logs=None):
        for file in self._folder.rglob("*.png"):
            file.unlink()


def test_a_file_that_a_worker_can_no_longer_read_is_named(coordinator, tmp_path):
    for number in range(40):
        folder = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}.png").write_bytes(picture(number))
    removes = Removes(tmp_path / "photos")
    keys = {"dataset": str(tmp_path / "photos"), "hold": "stream", "per_rank_batch_size": "4"}
    with pytest.raises(UserError, match=r"^worker \d: .*\.png"):
        run(coordinator, tmp_path / "run", callbacks=[removes], **keys)
