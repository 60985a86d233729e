"""What the run shows in TensorBoard. The chief writes; values come from all ranks."""

from pathlib import Path

import tensorflow as tf

from app.config import Config
from app.evaluate import Scores
from app.loop import Progress
from app.recipe import to_toml


class TensorBoard:
    """Scalars by optimizer step, in the runs `train`, `validation` and `test`."""

    def __init__(self, directory: Path, config: Config):
        self._directory = directory
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        with self._writer("train").as_default(step=0):
            tf.summary.text("config", f"```toml\n{to_toml(config)}```")

    def trained(self, progress: Progress) -> None:
        """Running means of the epoch, examples/s over all ranks, and the learning rate."""
        with self._writer("train").as_default(step=progress.step):
            for name, value in progress.metrics.items():
                tf.summary.scalar(name, value)
            tf.summary.scalar("examples_per_second", progress.examples_per_second)
            tf.summary.scalar("learning_rate", progress.learning_rate)

    def epoch_ended(self, progress: Progress, validation: Scores | None) -> None:
        """Exact validation results."""
        if validation:
            self.evaluated("validation", progress.step, validation)

    def evaluated(self, split: str, step: int, scores: Scores) -> None:
        """Exact results on a split; makes all that was written visible."""
        with self._writer(split).as_default(step=step):
            tf.summary.scalar("loss", scores.loss)
            tf.summary.scalar("accuracy", scores.accuracy)
        for writer in self._writers.values():
            writer.flush()

    def _writer(self, name: str) -> tf.summary.SummaryWriter:
        if name not in self._writers:
            self._writers[name] = tf.summary.create_file_writer(str(self._directory / name))
        return self._writers[name]
