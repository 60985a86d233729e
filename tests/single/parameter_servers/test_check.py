"""What does not go with parameter servers is refused by name, without TensorFlow."""

import pytest

from app.config import Config, Distribution
from app.errors import UserError
from app.monitor.options import Monitoring, ProfiledSteps
from app.parameter_servers.check import MEANT_FOR_BOTH, check
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
