"""A launched run whose ranks are killed as the kernel kills them, and which is started again."""

import sys
from pathlib import Path

import pytest

from tests.integration.launching import Finished, horovodrun, run
from tests.parallel.killed import assert_same_bits

TRAIN = """
import os, signal, sys
import keras
from app.train import train
from tests.parallel.killed import config_of

directory, rank, step = sys.argv[1], *map(int, sys.argv[2:])

class Kill(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if os.environ["HOROVOD_RANK"] == str(rank) and self.model.optimizer.iterations == step:
            os.kill(os.getpid(), signal.SIGKILL)

train(config_of(directory, dropout=0.2), resume=True, callbacks=[Kill()])
"""


def trained(directory: Path, rank: int = -1, step: int = -1) -> Finished:
    """A run on two ranks, one of which is killed after so many steps."""
    command = [sys.executable, "-c", TRAIN, str(directory), str(rank), str(step)]
    return run(horovodrun(2, "gloo", *command), timeout_s=240)


@pytest.mark.full_matrix
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_that_is_killed_ends_with_the_same_bits_as_one_that_is_not(tmp_path, rank) -> None:
    whole = trained(tmp_path / "whole")
    assert whole.code == 0, whole.all
    killed = trained(tmp_path / "parted", rank, step=7)
    assert killed.code != 0, killed.all
    newest = max((tmp_path / "parted" / "checkpoints").iterdir())
    assert newest.name == "step-00000006", killed.all
    resumed = trained(tmp_path / "parted")
    assert resumed.code == 0, resumed.all
    assert_same_bits(tmp_path / "whole", tmp_path / "parted")
