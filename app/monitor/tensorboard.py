"""What the run shows in TensorBoard. The chief writes; values come from all ranks.

Tags: learning/, speed/ and health/ by optimizer step; learning_by_epoch/ and learning_by_examples/
again by those; timeline/ (points) and timeline_texts/ for what happened when. Curves of the runs
`train`, `validation` and `test` (and `validation_ema`, `test_ema`: with the moving average of the
weights) share their tags, and so their charts. Otherwise a tag belongs to
one plugin: TensorBoard fails where a text and an image share one.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb

from app.config import Config
from app.evaluation.markdown import plain
from app.evaluation.report import class_table, mistake_table
from app.evaluation.results import Results
from app.evaluation.scores import Scores
from app.monitor.event_files import keep_only
from app.monitor.goodput import CAUSES, GoodputSummary
from app.monitor.progress import Place, Progress, Show
from app.monitor.summary_writers import SummaryWriters
from app.monitor.tensorboard_layout import end_summary, hparams_summaries, layout_summary
from app.monitor.tensorboard_samples import contact_sheet, samples_of
from app.monitor.timing import PARTS
from app.recipe import to_toml

CONTINUED = (
    "",
    "train",
    "validation",
    "validation_ema",
)  # folders of event files, "" for their parent
EVENTS = (
    *("started", "resumed", "checkpointed", "evaluated", "finished", "failed"),
    *("stopping", "skipped", "drifted", "straggles", "resized"),
)
# Written by every process that trains, at the step where it begins or ends.
OF_A_PROCESS = ("config", "samples/") + tuple(
    f"{group}/{event}"
    for group in ("timeline", "timeline_texts")
    for event in ("resumed", "finished", "failed", "stopping", "resized")
)
ONE_OF_A_RUN = ("_hparams_", "custom_scalars__config__")
FIGURES_SHARE = 0.01  # of the time, for drawing figures during the run


class TensorBoard(Show):
    """Writes the event files of a run.

    Args:
        directory: where they are; the runs `train`, `validation` and `test` are folders in it.
        config: the resolved config.
        about: `DataPlan.to_json()` of the dataset.
        world_size: the number of ranks.
        place: where the run starts or is resumed; anything written after it is dropped.
        world: who trains, for people.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        about: Mapping[str, Any],
        world_size: int,
        place: Place,
        world: str = "",
    ):
        self._about = about
        self._epochs, self._last_epoch = place.epoch, config.training.epochs
        self._writers = SummaryWriters(directory)
        self._events = list(EVENTS)
        self._work: list[tuple[int, np.ndarray]] = []  # (step, seconds of each rank)
        self._began, self._drawing_s = time.monotonic(), 0.0
        self._checks = 0
        self._stops = False
        directory.mkdir(parents=True, exist_ok=True)
        for run in CONTINUED:
            keep_only(directory / run, lambda tag, step: is_kept(tag, step, place))
        for run in ("test", "test_ema"):  # final results, written anew
            keep_only(directory / run, lambda tag, step: False)
        labels = [name for name, _ in about.get("heads", ())]
        for summary in (layout_summary(labels), *hparams_summaries(config, world_size, labels)):
            self._writers.write("", place.step, summary)
        self._writers.text("train", "config", place.step, f"```toml\n{to_toml(config)}```")
        self.marked(
            place.step, "resumed" if place.step else "started", world or f"{world_size} rank(s)"
        )

    def sees(self, place: Place, network: Any, batch: Any) -> None:
        """The graph of the network, and samples of the first batch after all processing."""
        inputs = tf.nest.map_structure(
            lambda one: tf.TensorSpec([None, *one.shape[1:]], one.dtype), batch.inputs
        )
        forward = tf.function(lambda x: network(x, training=False), autograph=False)
        with self._writers.at("train", place.step):
            tf.summary.graph(forward.get_concrete_function(inputs).graph)
            if not len(batch.labels):  # this rank's part is empty
                return
            samples = samples_of(batch, self._about)
            if isinstance(samples, str):
                tf.summary.text("samples/as_the_model_sees_them", samples)
            else:
                tf.summary.image("samples/as_the_model_sees_them", samples[None])

    def trained(self, progress: Progress) -> None:
        """Running means of the epoch, the learning rate, and how the steps went on all ranks."""
        self._writers.scalars(
            "train", progress.step, _learning(progress.metrics) | _of_steps(progress)
        )
        if progress.times is not None:
            self._work.append((progress.step, progress.times.work))
        self._writers.flush("train")  # another rank goes on if this one is killed

    def epoch_ended(self, progress: Progress, validation: Results | None) -> None:
        """The epoch's means, exact validation results, and the work of each rank over time."""
        place = Place(progress.step, progress.epoch, progress.examples)
        self._epochs = progress.epoch
        self._by_other_axes("train", place, progress.metrics)
        if validation:
            self.evaluated("validation", place, validation)
        elapsed = time.monotonic() - self._began
        if self._drawing_s < FIGURES_SHARE * elapsed - 0.5 and progress.epoch < self._last_epoch:
            self._draw_work()

    def distributions(
        self, step: int, weights: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
    ) -> None:
        """A histogram of each variable and its gradient."""
        with self._writers.at("train", step):
            for kind, arrays in (("weights", weights), ("gradients", gradients)):
                for path, values in arrays.items():
                    tf.summary.histogram(f"{kind}/{path}", values)

    def evaluated(self, split: str, place: Place, results: Results) -> None:
        """Exact results on a split."""
        metrics = {"loss": results.loss, "accuracy": results.accuracy}
        for name, scores in results.several.items():
            if scores.examples:
                metrics |= {f"{name}_loss": scores.loss, f"{name}_accuracy": scores.accuracy}
        self._writers.scalars(split, place.step, _learning(metrics))
        self._by_other_axes(split, place, metrics)
        self.marked(place.step, "evaluated", f"accuracy {results}", split)

    def averaged(self, split: str, place: Place, scores: Results) -> None:
        """Exact results on a split, as a run of its own."""
        self.evaluated(f"{split}_ema", place, scores)

    def reported(
        self,
        split: str,
        step: int,
        result: Mapping[str, Any],
        scores: Scores,
        images: Any = None,
        head: str = "",
    ) -> None:
        """What an evaluation says about classes and mistakes.

        `result`: as in `Scores.to_json`, with `mistakes`; `images`: uint8 (n, height, width,
        channels) of the mistakes, if they are images; `head`: the label, where there are several.
        """
        from app.evaluation import figures  # Matplotlib takes a while

        names = [row["class"] for row in result["classes"]]
        bins = (scores.bin_examples, scores.bin_hits, scores.bin_confidence)
        group = f"report/{head}" if head else "report"
        self._writers.figure(
            split, f"{group}/confusion", step, figures.confusion_figure(scores.confusion, names)
        )
        self._writers.figure(split, f"{group}/reliability", step, figures.reliability_figure(*bins))
        self._writers.text(split, f"{group}/classes", step, class_table(result))
        self._writers.text(split, f"{group}/most_confident_mistakes", step, mistake_table(result))
        if images is not None and len(images):
            captions = [f"{row['true']}, not {row['predicted']}" for row in result["mistakes"]]
            sheet = contact_sheet(images, captions)
            self._writers.image(split, f"{group}/images_most_confidently_mistaken", step, sheet)

    def marked(self, step: int, event: str, text: str, run: str = "train") -> None:
        """Something happened: a point in the row of its kind, and a line of text."""
        if event not in self._events:
            self._events.append(event)
        summary = scalar_pb(f"timeline/{event}", float(self._events.index(event) + 1))
        summary.MergeFrom(text_pb(f"timeline_texts/{event}", plain(text)))
        self._writers.write(run, step, summary)

    def straggles(self, step: int, text: str) -> None:
        """An event."""
        self.marked(step, "straggles", text)

    def skipped(self, step: int, text: str) -> None:
        """An event; the number of such steps is written by `trained`."""
        self.marked(step, "skipped", text)

    def drifted(self, step: int, text: str) -> None:
        """An event."""
        self.marked(step, "drifted", text)

    def stopping(self, step: int, text: str) -> None:
        """An event; the run has not finished then."""
        self._stops = True
        self.marked(step, "stopping", text)

    def resized(self, step: int, text: str) -> None:
        """An event."""
        self.marked(step, "resized", text)

    def closed(self) -> None:
        """Close the files."""
        self._writers.close()

    def counted(self, step: int, goodput: GoodputSummary) -> None:
        """The share of the time that was well spent, and what went into the rest."""
        lost = {f"speed/lost_s_{cause}": goodput.seconds[cause] for cause in CAUSES}
        self._writers.scalars("train", step, {"speed/goodput": goodput.share} | lost)

    def checkpointed(self, step: int, path: Path, seconds: float) -> None:
        """A checkpoint was written."""
        self._writers.scalars("train", step, {"speed/checkpoint_s": seconds})
        self.marked(step, "checkpointed", f"{path.name} in {seconds:.2f} s")
        self._writers.flush()  # a run that is killed now goes on from here

    def agreed(self, step: int) -> None:
        """The lockstep guard has compared the replicas and found them equal."""
        self._checks += 1
        self._writers.scalars("train", step, {"health/lockstep_checks_passed": self._checks})

    def ended(self, step: int, error: BaseException | None = None) -> None:
        """The run is over; closes the files, so that all of it is visible. One that was asked to
        stop is not over for HParams: it can be resumed."""
        if error is not None:
            self.marked(step, "failed", f"{type(error).__name__}: {error}")
        elif not self._stops:
            self.marked(step, "finished", f"{self._epochs} of {self._last_epoch} epochs trained")
        self._draw_work()
        if error is not None or not self._stops:
            self._writers.write("", step, end_summary(error is None))
        self.closed()

    def _by_other_axes(self, split: str, place: Place, metrics: Mapping[str, float]) -> None:
        for axis in ("epoch", "examples"):
            values = _learning(metrics, f"learning_by_{axis}")
            self._writers.scalars(split, getattr(place, axis), values)

    def _draw_work(self) -> None:
        """The heat map of rank and time, if several ranks have reported."""
        most = max((len(row) for _, row in self._work), default=0)
        if most < 2:
            return
        from app.evaluation.figures import rank_time_figure

        began = time.monotonic()
        steps, rows = zip(*self._work, strict=True)
        table = np.full((most, len(rows)), np.nan)  # of ranks that are not there
        for column, row in enumerate(rows):
            table[: len(row), column] = row
        figure = rank_time_figure(table, steps)
        self._writers.figure("train", "speed/work_of_each_rank", steps[-1], figure)
        self._drawing_s += time.monotonic() - began


def is_kept(tag: str, step: int, place: Place) -> bool:
    """Whether a value belongs to the part of a run that is kept when it resumes at `place`."""
    if place.step == 0 or tag.startswith(ONE_OF_A_RUN):
        return False
    axis = {"learning_by_epoch": "epoch", "learning_by_examples": "examples"}
    last = getattr(place, axis.get(tag.partition("/")[0], "step"))
    return step < last or (step == last and not tag.startswith(OF_A_PROCESS))


def _learning(metrics: Mapping[str, float], group: str = "learning") -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in metrics.items()}


def _of_steps(progress: Progress) -> dict[str, float]:
    """How fast and how healthy the last steps were, over all ranks."""
    found: dict[str, float] = {
        "learning/learning_rate": progress.learning_rate,
        "speed/examples_per_second": progress.examples_per_second,
        "health/skipped_steps": progress.skipped_steps,
    }
    if progress.times is not None:
        work = progress.times.work
        slowest = int(work.argmax())
        for name in PARTS:
            seconds = getattr(progress.times, name)
            found[f"speed/step_mean_s_{name}"] = float(seconds.mean())
            found[f"speed/step_slowest_rank_s_{name}"] = float(seconds[slowest])
        found["speed/rank_skew"] = float(work.max() / work.mean()) if work.any() else 1.0
    if progress.memory_bytes is not None:
        found["health/memory_gb"] = float(progress.memory_bytes.max()) / 1e9
    if progress.facts is not None:
        found["health/gradient_norm"] = progress.facts.gradient_norm
        found["health/update_to_weight_ratio"] = progress.facts.update_ratio
        found["health/compression_error"] = progress.facts.compression_error
    if progress.loss_scale is not None:
        found["health/loss_scale"] = progress.loss_scale
    if progress.bytes_sent:
        found["speed/megabytes_sent_per_step"] = progress.bytes_sent / 1e6
        found["speed/compression_ratio"] = progress.bytes_uncompressed / progress.bytes_sent
    return found
