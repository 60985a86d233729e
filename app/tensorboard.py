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
        """Running means of the epoch, the learning rate, and how the steps went on all ranks."""
        with self._writer("train").as_default(step=progress.step):
            for name, value in progress.metrics.items():
                tf.summary.scalar(name, value)
            tf.summary.scalar("examples_per_second", progress.examples_per_second)
            tf.summary.scalar("learning_rate", progress.learning_rate)
            for name, value in _of_the_step(progress).items():
                tf.summary.scalar(name, value)

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


def _of_the_step(progress: Progress) -> dict[str, float]:
    """Where the time of a step went (mean over ranks, and of the slowest rank by its own work),
    norms, bytes and memory."""
    found: dict[str, float] = {}
    if progress.times is not None:
        slowest = int(progress.times.work.argmax())
        for name in ("input", "compute", "exchange", "other"):
            seconds = getattr(progress.times, name)
            found[f"step_time_mean_s/{name}"] = float(seconds.mean())
            found[f"step_time_slowest_rank_s/{name}"] = float(seconds[slowest])
    if progress.memory_bytes is not None:
        found["memory_gb/largest_rank"] = float(progress.memory_bytes.max()) / 1e9
    if progress.facts is not None:
        found["health/gradient_norm"] = progress.facts.gradient_norm
        found["health/update_to_weight_ratio"] = progress.facts.update_ratio
        found["exchange/compression_error"] = progress.facts.compression_error
    if progress.loss_scale is not None:
        found["health/loss_scale"] = progress.loss_scale
    if progress.bytes_sent:
        found["exchange/megabytes_per_step"] = progress.bytes_sent / 1e6
        found["exchange/compression_ratio"] = progress.bytes_uncompressed / progress.bytes_sent
    return found
