"""What the loop reports about a run, and the interface of what shows it. Knows plain numbers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from app.distributed.telemetry import StepFacts
from app.evaluation.results import Results
from app.evaluation.scores import Scores
from app.monitor.goodput import GoodputSummary
from app.monitor.timing import RankTimes


class Place(NamedTuple):
    """How far training is: optimizer steps, finished epochs, and examples since the beginning."""

    step: int
    epoch: int
    examples: int


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where training is, with the values of all ranks.

    `epoch`: the number, from 1, of the epoch that is or has just been trained; `metrics`: means
    over the epoch so far; `examples`: trained on since the beginning; `examples_per_second`: of all
    ranks together, since the last report or over the epoch; `skipped_steps`: those since the
    beginning that changed nothing (an overflow in float16); `times`, `memory_bytes` (float64
    (ranks,)) and `facts`: since the last report, None at the end of an epoch; `bytes_sent`: per
    step and rank; `bytes_uncompressed`: what that would be without compression.
    """

    epoch: int
    step: int
    metrics: dict[str, float]
    examples_per_second: float
    learning_rate: float
    examples: int = 0
    skipped_steps: int = 0
    loss_scale: float | None = None
    times: RankTimes | None = None
    memory_bytes: np.ndarray | None = None
    facts: StepFacts | None = None
    bytes_sent: float = 0.0
    bytes_uncompressed: float = 0.0

    @property
    def place(self) -> Place:
        """Where training is; at the end of an epoch, which is finished."""
        return Place(self.step, self.epoch, self.examples)

    @property
    def shown(self) -> str:
        """The metrics, for a line; of several labels the loss of all and the accuracy of each."""
        end = "_accuracy"
        each = {name.removesuffix(end): name for name in self.metrics if name.endswith(end)}
        if not each:
            return "  ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        accuracies = ", ".join(f"{head} {self.metrics[name]:.4f}" for head, name in each.items())
        return f"loss {self.metrics['loss']:.4f}  accuracy {accuracies}"


class Show:
    """Something that shows a run, with values of all ranks; it calls no collective.

    Every method does nothing here, so a show implements only those it needs, and a plain `Show()`
    takes the place of the chief's shows on the other ranks.
    """

    def table(self, title: str, rows: Mapping[str, Any]) -> None:
        """Names and values, for people: what will run, and how it ended."""

    def began(self, step: int, total_steps: int) -> None:
        """Training begins at `step`, of `total_steps`."""

    def sees(self, place: Place, network: Any, batch: Any) -> None:
        """The chief's part of the first batch that this process trains on, as the model sees it."""

    def trained(self, progress: Progress) -> None:
        """Every `log_every_steps` steps."""

    def agreed(self, step: int) -> None:
        """All replicas have been compared and found equal."""

    def straggles(self, step: int, text: str) -> None:
        """A rank begins to hold the others up, or no longer does."""

    def skipped(self, step: int, text: str) -> None:
        """A step with bad numbers was left out on all ranks."""

    def drifted(self, step: int, text: str) -> None:
        """A difference between replicas was repaired; the guard has logged it."""

    def stopping(self, step: int, text: str) -> None:
        """Training ends early, in order, since it was asked to."""

    def resized(self, step: int, text: str) -> None:
        """Ranks were lost, or have joined; training goes on from this step."""

    def closed(self) -> None:
        """Nothing more is shown here; another takes its place."""

    def checkpointed(self, step: int, path: Path, seconds: float) -> None:
        """A checkpoint of `step`, which may be a while ago, is on disk; it took so long."""

    def counted(self, step: int, goodput: GoodputSummary) -> None:
        """With each checkpoint and at the end: how much of the time was well spent so far."""

    def epoch_ended(self, progress: Progress, validation: Results | None) -> None:
        """After each epoch and its validation."""

    def distributions(
        self, step: int, weights: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
    ) -> None:
        """After each epoch, if `histograms` is on: the weights, and the gradients of the last step
        that was measured, by path."""

    def evaluated(self, split: str, place: Place, results: Results) -> None:
        """Exact results on a split."""

    def averaged(self, split: str, place: Place, scores: Results) -> None:
        """The same with the moving average of the weights; that of an epoch's validation comes
        before `epoch_ended`."""

    def reported(
        self,
        split: str,
        step: int,
        result: Mapping[str, Any],
        scores: Scores,
        images: Any = None,
        head: str = "",
    ) -> None:
        """What an evaluation says about classes and mistakes; see `TensorBoard.reported`."""

    def ended(self, step: int, error: BaseException | None = None) -> None:
        """The run is over, or has failed."""
