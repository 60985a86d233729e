"""The training loop of the coordinator: deals where `Loop` computes, and is that loop otherwise.

A step is one batch of one worker. At a commit point nothing is under way: no batch is dealt beyond
it before all are done. Between commit points `state.examples_seen` counts the examples that are
done, in whatever order.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from app.config import Config
from app.errors import UserError
from app.loop import Loop
from app.monitor.progress import Progress
from app.monitor.reports import Reports
from app.monitor.timing import RankTimes
from app.parameter_servers.check import check, warn_of_momentum
from app.parameter_servers.coordinator import Coordinator
from app.parameter_servers.dealer import Dealer
from app.parameter_servers.step import Result, build_step, names_of
from app.pulse import PULSE


class WorkerReports(Reports):
    """Reports whose times are those of the workers."""

    skipped = 0
    _world: Coordinator

    def __init__(self, *arguments: Any):
        self._results: list[Result] = []
        super().__init__(*arguments)

    def note(self, result: Result) -> None:
        """A worker has done a batch."""
        self._results.append(result)

    def begin_epoch(self) -> None:
        super().begin_epoch()
        self._results.clear()

    def _skipped_steps(self) -> int:
        return self.skipped

    def _measured(self, passes: int, held_up_s: float) -> dict[str, Any]:
        wall = self._clock.since(self._reported).seconds
        rows = []
        for worker in range(self._world.workers):
            own = [result for result in self._results if result.worker == worker]
            waited = sum(result.input_s for result in own)
            worked = sum(result.seconds for result in own) - waited
            rows.append((len(own), max(wall, waited + worked), waited, worked, 0.0))
        self._results.clear()
        measured = super()._measured(passes, held_up_s)
        del measured["facts"], measured["bytes_sent"], measured["bytes_uncompressed"]
        return measured | {"times": RankTimes.of(np.array(rows))}


class DealtLoop(Loop):
    """See `Loop`; its world is a `Coordinator`."""

    reports_of: type[Reports] = WorkerReports
    world: Coordinator
    _reports: WorkerReports

    def __init__(self, config: Config, *arguments: Any, **options: Any):
        check(config)  # perhaps of a run that ranks have begun
        super().__init__(config, *arguments, **options)
        if self.classifier.objective.has_several:
            raise UserError(
                f"label_key = '{config.data.label_key}': workers on parameter servers learn one "
                "label: name one, or train with launch/local.sh or launch/hosts.sh"
            )
        wire = self.config.distribution
        self._dealer = Dealer(
            self.world.cluster,
            self.world.workers,
            wire.max_staleness,
            wire.step_timeout_s + wire.phase_timeout_s,
        )
        self._about = ""  # what workers know of the run
        self._batches_of: Counter[int] = Counter()  # by worker
        self._seconds_of: dict[int, float] = defaultdict(float)  # without the first of each
        self._dealt_again = 0
        self._sums = np.zeros((2, 2))  # of loss and hits: (total, examples), in this epoch
        self._bad: tuple[str | None, str | None] = (None, None)  # of the step before, of this one

    def run(self) -> None:
        """See `Loop`. Raises UserError that names a worker with other code or data."""
        PULSE.enter("preparation")
        self._about = self.world.prepare(str(self.config.run.run_dir or Path()))
        warn_of_momentum(self.config, self.world.workers)
        super().run()

    def notes(self) -> dict[str, str]:
        staleness = self.config.distribution.max_staleness
        return {
            "world": f"{self.world.described}; on CPUs",
            "batch": f"{self.batch_size} examples per step, each of one worker",
            "exchange": f"asynchronous, max_staleness {staleness}",
        }

    def results(self) -> dict[str, Any]:
        """What became of the batches."""
        dealer, workers = self._dealer, range(self.world.workers)
        timed = [max(1, self._batches_of[one] - 1) for one in workers]
        return {
            "parameter_servers": {
                "workers": self.world.workers,
                "servers": self.world.servers,
                "batches": [self._batches_of[one] for one in workers],
                "seconds_per_batch": [self._seconds_of[one] / timed[one] for one in workers],
                "dealt_again": self._dealt_again,
                "staleness_mean": dealer.staleness_sum / max(1, dealer.results),
                "staleness_max": dealer.staleness_max,
            }
        }

    def _batches(self) -> Iterator[tuple[Any, bool]]:
        """How the batches of the rest of the epoch went, as they are done."""
        state = self.state
        self._sums = np.array([[float(one.numpy()) for one in metric.variables]
                               for metric in self.classifier.metrics])  # fmt: skip
        self._reports.skipped = (
            state.step - state.unfrozen_at - int(state.optimizer.iterations.numpy())
        )
        plan = self._epochs.plan(state.seed, state.epoch, state.examples_seen)
        shares, seen = plan.shares(0), state.examples_seen
        while True:
            while self._may_deal() and (share := next(shares, None)) is not None:
                after = self._epochs.seen_after_step(seen)
                done = state.epoch + np.array([seen, after]) / self._examples
                self._dealer.deal(self._step(share), share, state.epoch, self.schedule.rate(*done))
                seen = after
            if not self._dealer.in_flight:
                break
            PULSE.enter("step")
            yield self._dealer.next(), True
        self._write_sums()

    def _may_deal(self) -> bool:
        """Not beyond a commit point, nor to end later than need be."""
        under_way = self._dealer.in_flight
        if under_way and self.stop.wanted:
            return False
        return under_way < self._times.steps_ahead and self._dealer.has_room

    def _step(self, share: Any) -> Any:
        if True not in self._traced:
            with PULSE.during("first trace"):
                like = self._feed.batch(share, self.state.epoch)
                self._reports.see(like)
                self._traced[True] = build_step(self.classifier, self.schedule, like, self._about)
                self._names = names_of(self.classifier)
        return self._traced[True]

    def _pass(self, number: int, result: Result) -> tf.Tensor:
        """Take note of a batch that is done."""
        PULSE.enter("callbacks")
        self._move_schedule()
        self.callbacks.on_train_batch_begin(number)
        if np.isfinite(result.loss):
            own = np.array([[result.loss * result.examples], [result.hits]])
            self._sums += np.hstack([own, np.full((2, 1), result.examples)])
        is_first = not self._batches_of[result.worker]  # it had to make its graph first
        waited_s = result.input_s / self.world.workers
        self.clock.tick(result.examples, is_first, waited_s)
        self._seconds_of[result.worker] += 0.0 if is_first else result.seconds
        self._batches_of[result.worker] += 1
        self._own_examples += result.examples
        self._reports.note(result)
        self._tell_of_lost()
        bad = None if result.bad < 0 else self._names[result.bad]
        self._bad = self._bad[1], bad
        self._reports.skipped += bad is not None
        means = self._sums[:, 0] / np.maximum(self._sums[:, 1], 1)
        names = [metric.name for metric in self.classifier.metrics]
        self.callbacks.on_train_batch_end(number, dict(zip(names, means.tolist(), strict=True)))
        if self._times.steps_ahead == 1 or (self.state.step + 1) % self._log_every == 0:
            self._write_sums()
        return tf.constant([0.0, float(result.bad > 0), float(result.bad == 0)])

    def _count_step(self, heard: tf.Tensor) -> None:
        super()._count_step(heard)
        over = self._begins_anew or self.commits.ends
        is_inside = self.state.examples_seen < self._examples  # otherwise the epoch's end commits
        if is_inside and not over and self.stop.wanted and not self._dealer.in_flight:
            self._commit()

    def _first_bad(self) -> str | None:
        return self._bad[0]

    def _move_schedule(self) -> None:
        """Where training is, for reports; each batch brings the rate that it is trained at."""
        seen = self.state.examples_seen
        places = np.array([seen, self._epochs.seen_after_step(seen)]) / self._examples
        self.schedule.move_to(*(self.state.epoch + places))

    def _go_back(self) -> bool:
        self._dealer.drain()
        return super()._go_back()

    def _commit(self, ended: Progress | None = None) -> dict[str, float]:
        self._write_sums()
        state = self.state
        # Workers count without a lock, and so too few.
        done = state.step - state.unfrozen_at - self._reports.skipped
        state.optimizer.iterations.assign(np.array(done))
        return super()._commit(ended)

    def _write_sums(self) -> None:
        """Give the metrics the sums of the epoch so far, for whoever reads them."""
        for metric, sums in zip(self.classifier.metrics, self._sums, strict=True):
            for variable, value in zip(metric.variables, sums, strict=True):
                variable.assign(np.array(value, np.float32))

    def _tell_of_lost(self) -> None:
        lost = self._dealer.lost()
        self._dealt_again += len(lost)
        for name, batches in Counter(lost).items():
            text = f"{name} was lost: {batches} batch(es) dealt again"
            for show in self._shows:
                show.resized(self.state.step, text)
