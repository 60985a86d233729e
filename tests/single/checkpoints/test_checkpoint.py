"""Checkpoints: whole or absent, restored to the bit."""

import hashlib
import json

import keras
import numpy as np
import pytest
import safetensors.numpy

from app.checkpoints.checkpoint import Checkpoints
from app.checkpoints.files import Score
from app.errors import UserError
from app.state import Kind, TrainState
from tests.single.checkpoints.states import assert_equal_bits, values


def test_a_fresh_model_gets_every_saved_variable_to_the_bit(trained, make_state, tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    saved = checkpoints.save(trained, {"world_size": 4})
    fresh = make_state(seed=6, backward_passes_per_step=2)
    assert not np.array_equal(values(fresh)["hidden/kernel"], values(trained)["hidden/kernel"])
    assert checkpoints.restore_latest(fresh) == saved
    assert_equal_bits(values(fresh), values(trained))
    assert (
        fresh.position
        == trained.position
        == {
            "seed": 5,
            "step": 3,
            "epoch": 1,
            "examples_seen": 0,
            "halvings": 0,
            "unfrozen_at": 0,
        }
    )
    assert int(fresh.optimizer.iterations) == 3


def test_training_goes_on_from_a_checkpoint_as_without_one(make_state, batch, tmp_path) -> None:
    state = make_state(dropout=0.0)
    state.model.train_step(batch)
    Checkpoints(tmp_path, keep=1).save(state, {})
    state.model.train_step(batch)
    fresh = make_state(seed=6, dropout=0.0)
    Checkpoints(tmp_path, keep=1).restore_latest(fresh)
    fresh.model.train_step(batch)
    assert_equal_bits(values(fresh), values(state))


@pytest.mark.parametrize(("ranks", "times"), [(4, 1), (2, 2), (6, 4 / 6), (None, 1)])
def test_fewer_ranks_owe_more_each_so_that_all_is_kept(
    make_state, tmp_path, ranks: int | None, times: float
) -> None:
    def owed(state: TrainState) -> list:
        return [entry.variable for entry in state.entries if entry.kind is Kind.SUMMED]

    saved = make_state(compression="topk", width=300)
    for variable in owed(saved):
        variable.assign(np.full(variable.shape, 3.0))
    assert owed(saved)
    Checkpoints(tmp_path, keep=2).save(saved, {"world_size": 4})
    fresh = make_state(compression="topk", width=300)
    assert Checkpoints(tmp_path, keep=2).restore_latest(fresh, ranks)
    for variable in owed(fresh):
        np.testing.assert_allclose(variable.numpy(), 3.0 * times, rtol=1e-6)


def test_the_loss_scale_is_kept(make_state, tmp_path) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    state = make_state()
    state.optimizer.inner_optimizer.dynamic_scale.assign(64.0)
    Checkpoints(tmp_path, keep=1).save(state, {})
    fresh = make_state()
    Checkpoints(tmp_path, keep=1).restore_latest(fresh)
    assert float(fresh.optimizer.inner_optimizer.dynamic_scale) == 64


def test_generators_and_accumulators_are_not_stored(trained, tmp_path) -> None:
    path = Checkpoints(tmp_path, keep=1).save(trained, {})
    stored = set(safetensors.numpy.load_file(path / "state.safetensors"))
    assert stored == set(values(trained))
    left_out = values(trained, [Kind.DERIVED, Kind.LOCAL])
    assert any("seed_generator" in name for name in left_out)
    assert any("accumulated_gradient" in name for name in left_out)
    assert stored.isdisjoint(left_out)


def test_what_is_said_about_a_checkpoint_is_beside_it(trained, tmp_path) -> None:
    path = Checkpoints(tmp_path, keep=1).save(trained, {"world_size": 4})
    meta = json.loads((path / "state.json").read_text())
    assert meta["world_size"] == 4
    assert meta["epoch"] == 1


def test_the_newest_are_kept_in_the_order_of_numbers(make_state, tmp_path) -> None:
    checkpoints, state = Checkpoints(tmp_path, keep=2), make_state()
    for step in (2, 99999998, 99999999, 100000000):
        state.step = step
        checkpoints.save(state, {})
    assert [path.name for path in checkpoints.list()] == ["step-99999999", "step-100000000"]
    state.step = 0
    checkpoints.restore_latest(state)
    assert state.step == 100000000


def test_there_may_be_no_checkpoint(make_state, tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path / "none", keep=2)
    assert checkpoints.list() == []
    assert checkpoints.restore_latest(make_state()) is None


def test_saving_a_step_again_replaces_its_checkpoint(make_state, tmp_path) -> None:
    checkpoints, state = Checkpoints(tmp_path, keep=2), make_state()
    checkpoints.save(state, {})
    state.examples_seen = 9
    path = checkpoints.save(state, {})
    assert checkpoints.list() == [path]
    state.examples_seen = 0
    checkpoints.restore_latest(state)
    assert state.examples_seen == 9


def test_the_metrics_of_the_epoch_so_far_go_on(trained, make_state, batch, tmp_path) -> None:
    Checkpoints(tmp_path, keep=1).save(trained, {})
    fresh = make_state(seed=6, backward_passes_per_step=2)
    Checkpoints(tmp_path, keep=1).restore_latest(fresh)
    ours, theirs = trained.model.get_metrics_result(), fresh.model.get_metrics_result()
    assert float(theirs["loss"]) == float(ours["loss"]) > 0
    assert float(fresh.model.objective.loss_means[0].count) == 6 * 8


def test_what_a_user_puts_beside_the_checkpoints_is_left_alone(make_state, tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    (tmp_path / "step-best").mkdir()
    path = checkpoints.save(make_state(), {})
    assert checkpoints.list() == [path]


def test_the_weights_alone_are_put_into_a_model(make_classifier, make_state, tmp_path) -> None:
    checkpoints, state = Checkpoints(tmp_path, keep=2), make_state()
    checkpoints.save(state, {})
    fresh = make_classifier(seed=9)
    path, position, sha256 = checkpoints.restore_model(fresh)
    assert (path, position) == (checkpoints.list()[-1], state.position)
    content = (path / "state.safetensors").read_bytes()
    assert sha256 == hashlib.sha256(content).hexdigest()
    for ours, theirs in zip(
        fresh.trainable_variables, state.model.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    with pytest.raises(UserError, match="holds no checkpoint"):
        Checkpoints(tmp_path / "none", keep=1).restore_model(fresh)


def test_a_model_gets_the_checkpoint_that_was_asked_for(
    make_classifier, make_state, tmp_path
) -> None:
    checkpoints, state = Checkpoints(tmp_path, 9, "loss"), make_state()
    for step, loss in ((1, 0.5), (2, 0.3), (3, 0.4)):
        state.step = step
        state.model.network.get_layer("hidden").bias.assign(np.full(5, step, np.float32))
        checkpoints.save(state, {})
        checkpoints.score(step, Score(loss, 0.5))
    fresh = make_classifier(seed=9)
    for which, step in (("newest", 3), ("best", 2), ("step-00000001", 1)):
        path, position, _ = checkpoints.restore_model(fresh, which)
        assert position["step"] == step and path.name == f"step-0000000{step}"
        assert fresh.network.get_layer("hidden").bias.numpy().tolist() == [step] * 5
