"""Tells the shows how a run is going: numbers of all ranks, gathered when a report is due."""

import dataclasses
import socket
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import tensorflow as tf

from app.classifier import Classifier
from app.distributed.replicas import sum_metrics
from app.distributed.world import World
from app.monitor.progress import Place, Progress, Show
from app.monitor.stragglers import Stragglers
from app.monitor.timing import Clock, Mark, RankTimes
from app.state import TrainState


class Reports:
    """Counts from the beginning of the epoch, and from the last report; made on every rank.

    Args:
        world, state, clock: the loop's.
        shows: what shows the run on this rank.
        examples: the size of the training split.
        every_steps: optimizer steps between two reports.
    """

    def __init__(
        self,
        world: World,
        state: TrainState,
        clock: Clock,
        shows: Sequence[Show],
        examples: int,
        every_steps: int,
    ):
        self._world = world
        self._state = state
        self._clock = clock
        self._shows = shows
        self._examples = examples
        self._every_steps = every_steps
        self._classifier: Classifier = state.model
        self._seen = False
        self.fit_to_world()

    def fit_to_world(self) -> None:
        """Watch the ranks that there are now; a collective."""
        self.stragglers = Stragglers(self._world.gather(socket.gethostname()))

    @property
    def _telemetry(self) -> Any:
        return self._state.optimizer.telemetry

    def begin_epoch(self) -> None:
        """Count from here."""
        self._epoch_began = self._reported = self._clock.mark
        self._reported_step = self._state.step
        self._held_up_s = 0.0
        self._sent = self._telemetry.totals
        self._look_ahead()

    def see(self, batch: Any) -> None:
        """Show the first batch, as the model sees it."""
        if not self._seen:
            self._seen = True
            place = place_of(self._state, self._examples)
            for show in self._shows:
                show.sees(place, self._classifier.network, batch)

    def count_step(self, passes: int) -> Progress | None:
        """A step of `passes` passes is done; a collective, and its report, if one is due."""
        due = self._state.step % self._every_steps == 0
        progress = self._report(passes) if due else None
        self._look_ahead()
        return progress

    def end_epoch(self) -> Progress:
        """How the epoch went; stops the clock; a collective."""
        metrics = self._metrics()  # waits for the last step
        self._clock.pause()
        return self._progress(metrics, self._epoch_began)

    def show_distributions(self) -> None:
        """Show the weights, and the gradients of the last step that was measured."""
        variables = self._classifier.trainable_variables
        weights = {variable.path: variable.numpy() for variable in variables}
        gradients = dict(zip(weights, self._telemetry.gradients, strict=False))
        for show in self._shows:
            show.distributions(self._state.step, weights, gradients)

    def _look_ahead(self) -> None:
        """Have the next step record its norms, if it will be reported."""
        if (self._state.step + 1) % self._every_steps == 0:
            self._telemetry.look()

    def _metrics(self) -> dict[str, float]:
        """Of all ranks, over the epoch so far; a collective."""
        return self._classifier.objective.with_totals(
            sum_metrics(self._world, self._classifier.metrics)
        )

    def _report(self, passes: int) -> Progress:
        """Show what happened since the last report; a collective."""
        held_up_s, asked = self._held_up_s, time.perf_counter()
        metrics = self._metrics()
        self._held_up_s = time.perf_counter() - asked  # by the others; it counts from here on
        measured = self._measured(passes, held_up_s)
        progress = dataclasses.replace(self._progress(metrics, self._reported), **measured)
        steps = self._state.step - self._reported_step
        for text in self.stragglers.see(progress.times, steps) if progress.times else ():
            for show in self._shows:
                show.straggles(progress.step, text)
        self._reported = self._clock.mark
        self._reported_step = self._state.step
        for show in self._shows:
            show.trained(progress)
        return progress

    def _measured(self, passes: int, held_up_s: float) -> dict[str, Any]:
        """What of a `Progress` was measured since the last report; a collective."""
        passed, sent = self._clock.since(self._reported), self._telemetry.totals
        exposed_s, in_bytes, uncompressed = np.subtract(sent, self._sent).tolist()
        self._sent = sent
        used = psutil.Process().memory_info().rss
        timed_steps = passed.passes / passes
        stepped, exchange = passed.stepped + held_up_s, exposed_s + held_up_s
        row = (timed_steps, passed.seconds, passed.waited, stepped, exchange, used)
        table = self._world.allgather(tf.constant([row], tf.float64), "loop.times").numpy()
        steps = self._state.step - self._reported_step
        return {
            "times": RankTimes.of(table[:, :5]),
            "memory_bytes": table[:, 5],
            "facts": self._telemetry.facts,
            "bytes_sent": in_bytes / steps,
            "bytes_uncompressed": uncompressed / steps,
        }

    def _skipped_steps(self) -> int:
        """Steps since the beginning that changed nothing."""
        state = self._state
        return state.step - state.unfrozen_at - int(state.optimizer.iterations)

    def _progress(self, metrics: dict[str, float], since: Mark) -> Progress:
        state, optimizer = self._state, self._state.optimizer
        scale = getattr(optimizer.inner_optimizer, "dynamic_scale", None)
        return Progress(
            epoch=state.epoch + 1,
            step=state.step,
            metrics=metrics,
            examples_per_second=self._clock.since(since).examples_per_second,
            learning_rate=float(optimizer.learning_rate),
            examples=place_of(state, self._examples).examples,
            skipped_steps=self._skipped_steps(),
            loss_scale=None if scale is None else float(scale),
        )


def place_of(state: TrainState, examples: int) -> Place:
    """How far a run over `examples` training examples is."""
    return Place(state.step, state.epoch, state.epoch * examples + state.examples_seen)
