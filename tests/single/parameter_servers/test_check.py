"""What does not go with parameter servers is refused by name, without TensorFlow."""

import pytest

from app.config import Config, Distribution
from app.errors import UserError
from app.monitor.options import Monitoring, ProfiledSteps
from app.parameter_servers.check import MEANT_FOR_BOTH, check, warn_of_momentum
from app.recipe import load

OTHERS = {
    "compression": "int8",
    "compress_from_epoch": "1",
    "topk_ratio": "0.1",
    "powersgd_rank": "2",
    "sync": "local",
    "sync_every_steps": "8",
    "sync_from_epoch": "1",
    "local_epochs": "2",
    "outer_learning_rate": "0.5",
    "outer_momentum": "0.5",
    "aggregation": "average",
    "sync_batch_norm": "true",
    "sparse_as_dense": "false",
    "bucket_mb": "1",
    "cycle_time_ms": "2",
    "fusion_mb": "1",
    "nccl_streams": "2",
    "autotune_log": "x",
    "shard_by": "label",
    "dirichlet_alpha": "1",
    "guard_every_steps": "7",
    "on_drift": "repair",
}


def test_every_key_of_the_section_is_looked_at():
    assert OTHERS.keys() | set(MEANT_FOR_BOTH) == Distribution.model_fields.keys()


@pytest.mark.parametrize("key", OTHERS)
def test_a_key_about_ranks_is_refused(key):
    with pytest.raises(UserError, match=f"^{key} = .* parameter servers have none"):
        check(load(None, {key: OTHERS[key]}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backward_passes_per_step": "2"}, "backward_passes_per_step = 2"),
        ({"ema_examples": "100"}, "ema_examples = 100"),
        ({"precision": "mixed_float16"}, "use mixed_bfloat16 or float32"),
    ],
)
def test_what_workers_cannot_agree_on_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        check(load(None, given))


@pytest.mark.parametrize(
    ("monitoring", "flag"),
    [
        (Monitoring(timeline=True), "--timeline"),
        (Monitoring(profile=ProfiledSteps.parse("1:2")), "--profile"),
    ],
)
def test_what_records_ranks_is_refused(monitoring, flag):
    with pytest.raises(UserError, match=flag):
        check(Config(), monitoring)


def test_everything_else_is_taken():
    keys = {"max_staleness": "0", "step_timeout_s": "5", "precision": "mixed_bfloat16"}
    check(load(None, keys | {"clip_norm": "1", "weight_decay": "0.1", "epochs": "3"}), Monitoring())


@pytest.mark.parametrize(
    ("optimizer", "momentum", "workers", "staleness", "warns"),
    [
        ("sgd", "0.9", 2, "0", True),
        ("sgd", "0.9", 1, "4", True),
        ("lars", "0.9", 3, "16", True),
        ("sgd", "0.9", 1, "0", False),  # nothing is late
        ("sgd", "0.5", 3, "16", False),
        ("adam", "0.9", 3, "16", False),
    ],
)
def test_much_momentum_with_late_gradients_is_warned_of(
    optimizer, momentum, workers, staleness, warns, caplog
):
    keys = {"optimizer": optimizer, "momentum": momentum, "max_staleness": staleness}
    warn_of_momentum(load(None, keys), workers)
    assert ("momentum = 0.9" in caplog.text) == warns
    assert not warns or "1/38 of the learning rate" in caplog.text


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("late", "most"), [(0, lambda m: 2 * (1 + m)), (1, lambda m: 1 - m)])
def test_on_a_quadratic_training_is_stable_up_to_what_the_warning_says(momentum, late, most):
    for share in (0.95, 1.05):
        places = [1.0, 1.0, 1.0]
        for _ in range(4000):
            slope = share * most(momentum) * places[-1 - late]
            places.append(places[-1] + momentum * (places[-1] - places[-2]) - slope)
            if abs(places[-1]) > 1e9:
                break
        assert (abs(places[-1]) < 1e-3) == (share < 1)
