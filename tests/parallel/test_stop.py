"""One rank is asked to stop: all ranks do, at one step, and what they have learned is kept."""

import os
import signal
import time

import keras
import numpy as np
import pytest

from app.distributed.world import World
from app.stop import STOP, Stopped
from app.train import train
from tests.parallel.killed import checkpoints, config_of


class Ask(keras.callbacks.Callback):
    """Asks this process to stop after the step of this number, on the last rank only."""

    def __init__(self, world: World, step: int):
        super().__init__()
        self.asks = world.rank == world.size - 1
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.asks and int(self.model.optimizer.iterations) == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
            while not STOP.wanted:
                time.sleep(0.001)


@pytest.mark.full_matrix  # several runs each
@pytest.mark.parametrize(
    ("asked_after", "stopped_at", "keys"),
    [
        # It travels with step 2, and is read while step 3 runs.
        pytest.param(1, 3, {}, id="made"),
        pytest.param(7, 10, {}, id="near"),  # the end of the epoch is, by then
        pytest.param(1, 2, {"commit_every_steps": 2}, id="at one"),
        pytest.param(1, 3, {"backward_passes_per_step": 2, "compression": "fp16"}, id="passes"),
    ],
)
def test_all_ranks_stop_at_one_step_and_the_resumed_run_ends_with_the_same_bits(
    world, directory, asked_after, stopped_at, keys
):
    keys = {"commit_every_steps": 1000, **keys}
    whole = train(config_of(directory / "whole", **keys), world=world)
    config = config_of(directory / "parted", **keys)
    with pytest.raises(Stopped, match=f"at step {stopped_at}, with"):
        train(config, world=world, callbacks=[Ask(world, asked_after)])
    parted = train(config, resume=True, world=world)
    assert parted["step"] == whole["step"] == 10
    assert parted["examples_trained_on"] == whole["examples_trained_on"]
    with world.together():
        if world.is_chief:
            ours, theirs = checkpoints(directory / "whole"), checkpoints(directory / "parted")
            assert f"step-{stopped_at:08d}" in theirs
            last = "step-00000010"
            for path, value in ours[last].items():
                np.testing.assert_array_equal(value, theirs[last][path], err_msg=path)
