"""TensorBoard's writers: one for each run in its sense, which is a folder of event files."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb


class SummaryWriters:
    """Opened when they are first written to. `run`: a folder in `directory`; "" is that itself."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def at(self, run: str, step: int) -> AbstractContextManager[Any]:
        """Where TensorFlow's own summaries go."""
        return self._writer(run).as_default(step=step)

    def write(self, run: str, step: int, summary: Summary) -> None:
        """Write values that are made already."""
        with self.at(run, step):
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Write all in one event: an operation for each would take ten times as long."""
        summary = Summary()
        for tag, value in values.items():
            summary.value.extend(scalar_pb(tag, value).value)
        self.write(run, step, summary)

    def text(self, run: str, tag: str, step: int, text: str) -> None:
        """Write Markdown."""
        self.write(run, step, text_pb(tag, text))

    def image(self, run: str, tag: str, step: int, image: Any) -> None:
        """Write a picture, uint8 (height, width, channels)."""
        with self.at(run, step):
            tf.summary.image(tag, image[None])

    def figure(self, run: str, tag: str, step: int, figure: Any) -> None:
        """Write a figure of Matplotlib."""
        from app.evaluation.figures import to_png  # Matplotlib takes a while

        self.image(run, tag, step, tf.io.decode_png(to_png(figure), channels=3))

    def flush(self, *runs: str) -> None:
        """Have on disk what these runs were told, or all of them: it stays if we are killed."""
        for run in runs or self._writers:
            self._writer(run).flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, run: str) -> tf.summary.SummaryWriter:
        if run not in self._writers:
            self._writers[run] = tf.summary.create_file_writer(str(self._directory / run))
        return self._writers[run]
