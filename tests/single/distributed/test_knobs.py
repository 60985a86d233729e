"""How Horovod's knobs reach it."""

import os
from pathlib import Path

import pytest

from app.config import Distribution
from app.distributed.horovod_world import _turn
from app.distributed.options import Knobs


def test_defaults_leave_horovod_at_a_cycle_of_1_ms_and_without_fusion(monkeypatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    _turn(Knobs())
    assert os.environ == {
        "HOROVOD_FUSION_THRESHOLD": "0",
        "HOROVOD_NUM_NCCL_STREAMS": "1",
    }


def test_what_the_user_has_set_comes_first(monkeypatch) -> None:
    monkeypatch.setattr(os, "environ", {"HOROVOD_CYCLE_TIME": "7"})
    _turn(Knobs(cycle_time_ms=2.5, fusion_mb=0.5, nccl_streams=3))
    assert os.environ == {
        "HOROVOD_CYCLE_TIME": "7",
        "HOROVOD_FUSION_THRESHOLD": "500000",
        "HOROVOD_NUM_NCCL_STREAMS": "3",
    }


def test_what_horovod_is_to_tune_it_is_not_told() -> None:
    assert Knobs(autotune_log=Path("tuned.csv")).variables() == {
        "HOROVOD_NUM_NCCL_STREAMS": "1",
        "HOROVOD_AUTOTUNE": "1",
        "HOROVOD_AUTOTUNE_LOG": "tuned.csv",
    }


@pytest.mark.parametrize(
    ("name", "value"), [("cycle_time_ms", 0.0), ("fusion_mb", -1.0), ("nccl_streams", 0)]
)
def test_a_value_that_is_not_valid_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}: expected"):
        Knobs(**{name: value})


def test_the_config_has_the_same_defaults() -> None:
    wanted = Distribution()
    assert Knobs() == Knobs(
        wanted.cycle_time_ms, wanted.fusion_mb, wanted.nccl_streams, wanted.autotune_log
    )
