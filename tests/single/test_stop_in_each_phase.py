"""A run that is asked to stop in any phase ends in order, and goes on as if nothing had been."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from app.distributed.world import World
from app.pulse import PULSE
from app.recipe import load
from app.stop import STOP, Stopped
from app.train import train

# 1294 digits in batches of 300: 5 steps an epoch.
KEYS = {"global_batch_size": 300, "epochs": 2, "commit_every_steps": 3, "log_every_steps": 2}
LAST = "step-00000010"
STOPPED = (r"stopped by SIGTERM (at step|in).*--resume goes on from there", "stopped by SIGTERM in")


def trained(directory: Path, **options: Any) -> dict[str, Any]:
    return train(load(None, {**KEYS, "run_dir": str(directory)}), world=World(), **options)


def weights(directory: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(directory / "checkpoints" / LAST / "state.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "run"
    trained(directory)
    return directory


@pytest.mark.parametrize(
    ("phase", "time"),
    [
        ("step", 4),
        ("validation", 1),
        *(
            pytest.param(phase, time, marks=pytest.mark.full_matrix)
            for phase, time in [
                ("preparation", 1),
                ("first trace", 1),
                ("input", 1),
                ("input", 8),
                ("callbacks", 5),
                ("reports", 3),
                ("agreement", 1),
                ("checkpoint", 2),
                ("validation", 2),
                ("test", 1),
                ("end", 1),
            ]
        ),
    ],
)
def test_a_signal_in_any_phase(phase, time, undisturbed, tmp_path, monkeypatch) -> None:
    enter, left = PULSE.enter, [time]

    def entered(name: str, limit_s: float | None = None) -> None:
        enter(name, limit_s)
        left[0] -= name == phase
        if not left[0]:
            left[0] = -1
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(PULSE, "enter", entered)
        with pytest.raises(Stopped, match=STOPPED[phase == "preparation"]):
            trained(tmp_path / "run")
    assert left[0] < 0 and not (tmp_path / "run" / ".lock").exists()
    if phase != "preparation":
        kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
        assert kept and all(name.startswith("step-") for name in kept)
    metrics = trained(tmp_path / "run", resume=True)
    assert metrics["step"] == 10 and not STOP.wanted
    expected = weights(undisturbed)
    for path, value in weights(tmp_path / "run").items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)
