"""Records steps for TensorBoard's profiler."""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from app.monitor.options import ProfiledSteps
from app.state import TrainState

LOG = logging.getLogger(__name__)


class Profiler(keras.callbacks.Callback):
    """On each of the chosen ranks, writes plugins/profile/steps-FIRST-LAST/rank-000.xplane.pb.

    So all ranks, even those of one host, are "hosts" of one profile in TensorBoard. A profile that
    cannot be written does not end the run.

    Args:
        steps: which steps, and on which ranks.
        directory: TensorBoard's.
        state: the training state, which knows the step.
        passes: forward and backward passes per step.
        rank: this process's rank.
    """

    def __init__(
        self, steps: ProfiledSteps, directory: Path, state: TrainState, passes: int, rank: int
    ):
        super().__init__()
        self._steps = steps
        self._place = directory / "plugins" / "profile" / f"steps-{steps.first}-{steps.last}"
        self._state = state
        self._passes = passes
        self._rank = rank
        self._chosen = steps.ranks is None or rank in steps.ranks
        self._began_with = 1
        self._met = False
        self._session: tempfile.TemporaryDirectory | None = None
        self._marker: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """A resumed run may be past the steps."""
        self._began_with = self._state.step + 1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start with the first pass of the first step; mark each pass with its step."""
        step = self._state.step + 1
        if not self._steps.first <= step <= self._steps.last:
            return
        self._met = True
        if not self._chosen:
            return
        if self._session is None:
            self._session = tempfile.TemporaryDirectory()
            tf.profiler.experimental.start(self._session.name)
        self._marker = tf.profiler.experimental.Trace("train", step_num=step, _r=1)
        self._marker.__enter__()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop after the last pass of the last step."""
        if self._marker is None:
            return
        self._marker.__exit__(None, None, None)
        self._marker = None
        last_pass = (batch + 1) % self._passes == 0
        if self._state.step + 1 == self._steps.last and last_pass:
            self._stop()

    def on_train_end(self, logs: Any = None) -> None:
        """Training may end during the steps, or before them."""
        if self._session is not None:
            self._stop()
        if not self._met:
            LOG.warning(
                "--profile %s recorded nothing: this training covered steps %d to %d",
                self._steps,
                self._began_with,
                self._state.step,
            )

    def _stop(self) -> None:
        tf.test.experimental.sync_devices()  # a GPU may be behind
        tf.profiler.experimental.stop()
        assert self._session is not None
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            for found in Path(self._session.name).rglob("*.xplane.pb"):
                shutil.move(found, self._place / f"rank-{self._rank:03d}.xplane.pb")
        except OSError as error:
            LOG.error("the profile of rank %d cannot be written: %s", self._rank, error)
        self._session.cleanup()
        self._session = None
