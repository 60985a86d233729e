"""What happens at a commit point, where all ranks agree on one state."""

import time
from collections.abc import Sequence

import keras
import numpy as np

from app.checkpoints.keeper import Keeper
from app.classifier import Classifier
from app.config import Config
from app.data.batches import Split
from app.distributed.guard import agree, compare
from app.distributed.world import World
from app.elastic.member import Member
from app.evaluation.evaluate import evaluate, evaluate_average
from app.evaluation.results import Results
from app.monitor.goodput import Goodput
from app.monitor.progress import Progress, Show
from app.monitor.reports import Reports
from app.pulse import PULSE
from app.state import TrainState
from app.stop import Stop

# A commit point at most so many seconds ahead is waited for by a run that is to stop.
NEAR_S = 5.0


class Commits:
    """The commit points of a run.

    Args:
        config, world, state, splits, shows: the loop's.
        keeper: the chief's, which writes checkpoints; None on other ranks. May be set later.
        goodput: where the time goes.
        reports, callbacks: what is told of the end of an epoch.
        stop: this process's wish to stop.
        member: this rank in a world that may change here.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        state: TrainState,
        splits: dict[str, Split],
        shows: Sequence[Show],
        keeper: Keeper | None,
        goodput: Goodput,
        reports: Reports,
        callbacks: keras.callbacks.CallbackList,
        stop: Stop,
        member: Member,
    ):
        self._config = config
        self._world = world
        self._state = state
        self._validation = splits.get("validation")
        self._shows = shows
        self.keeper = keeper
        self._goodput = goodput
        self._reports = reports
        self._callbacks = callbacks
        self._stop = stop
        self._member = member
        self._told_epochs = state.epoch  # whose ends have been told
        self._classifier: Classifier = state.model
        # Seconds that the last validation took; unknown before the first.
        self._validation_s = 0.0 if self._validation is None else float("inf")
        self.ends = False  # at the newest commit point all ranks agreed to stop,
        self.was_asked = False  # since a rank was asked to
        self.leavers: list[int] = []  # ranks that leave the others here
        self.has_newcomers = False  # who wait to be let in here

    def make(self, examples: int, ended: Progress | None = None) -> dict[str, float]:
        """A commit point; a collective.

        Settle and compare; agree on whether to stop; keep, so that nothing that comes later can
        cost what was learned; at the end of an epoch validate, then tell callbacks and shows.

        `examples`: trained on by this rank since the last one; `ended`: how the epoch that ends
        here went. Returns its logs.
        """
        state, world = self._state, self._world
        with PULSE.during("agreement"):
            optimizer, on_drift = self._classifier.optimizer, self._config.distribution.on_drift
            repaired = agree(
                world, self._classifier, optimizer, examples, state.seed, state.step, on_drift
            )
            self._show_agreement(repaired)
            totals = move_to_chief(world, self._classifier.metrics)
            self._member.commits(totals, ended)
            self._agree_to_stop()
        self._keep(ended is not None or self.ends)
        logs = {} if ended is None else self._end_epoch(ended)
        if ended is not None:
            self._agree_to_stop()  # callbacks may want to by now
        return logs

    def compare(self) -> None:
        """The guard, between commit points; a collective."""
        with PULSE.during("agreement"):
            on_drift = self._config.distribution.on_drift
            optimizer, step = self._classifier.optimizer, self._state.step
            self._show_agreement(compare(self._world, self._classifier, optimizer, step, on_drift))

    def is_near(self, steps: int, steps_per_second: float, ends_epoch: bool) -> bool:
        """Whether the next commit point, `steps` ahead, is worth waiting for; a collective."""
        ahead_s = steps / steps_per_second if steps_per_second else float("inf")
        ahead_s += self._validation_s if ends_epoch else 0.0
        return self._world.broadcast(ahead_s <= NEAR_S)

    def show_written(self) -> None:
        """Tell the shows which checkpoints were written since the last time."""
        for written in self.keeper.written() if self.keeper else ():
            for show in self._shows:
                show.checkpointed(written.step, written.path, written.seconds)
                show.counted(written.step, self._goodput.summary())

    def _keep(self, surely: bool) -> None:
        if self.keeper is not None:
            with PULSE.during("checkpoint"):
                about = {"world_size": self._world.size}
                if self.keeper.keep(self._state, about, surely):
                    self._goodput.mark(self._state.step)
        elif self._member.recovers:
            self._goodput.mark(self._state.step)  # this rank may have to go on with the ledger
        self.show_written()

    def _end_epoch(self, ended: Progress) -> dict[str, float]:
        """Validate, and tell callbacks and shows that an epoch has ended; returns its logs."""
        validation = averaged = None
        if self._validation is not None:
            validation, averaged = self._validate(self._validation)
        logs = dict(ended.metrics)
        if validation:
            logs |= {"val_loss": validation.loss, "val_accuracy": validation.accuracy}
            for name, scores in validation.several.items():
                logs |= {f"val_{name}_loss": scores.loss, f"val_{name}_accuracy": scores.accuracy}
        if averaged:
            logs |= {"val_ema_loss": averaged.loss, "val_ema_accuracy": averaged.accuracy}
        if self._told_epochs >= self._state.epoch:
            return logs  # another rank was lost just after
        self._told_epochs = self._state.epoch
        with PULSE.during("callbacks"):
            self._callbacks.on_epoch_end(self._state.epoch - 1, logs)
        with PULSE.during("reports"):
            for show in self._shows:
                if averaged:
                    show.averaged("validation", ended.place, averaged)
                show.epoch_ended(ended, validation)
            if self._config.run.histograms:
                self._reports.show_distributions()
        return logs

    def _validate(self, split: Split) -> tuple[Results, Results | None]:
        """Score the model, and with the average of its weights if there is one, which then decides
        what is best; who is asked to stop here does so at once: the state is kept."""
        began = time.monotonic()
        with PULSE.during("validation"), self._stop.deferred(False):
            results = evaluate(self._classifier, split, self._world)
            averaged = evaluate_average(self._classifier, split, self._world)
        self._validation_s = time.monotonic() - began
        best = averaged or results
        if self.keeper is not None:
            self.keeper.scored(self._state.step, best.loss, best.accuracy)
        if (stopping := self._classifier.early_stopping) is not None:
            score = best.loss if stopping.watches == "loss" else best.accuracy
            stopping.see(self._state.epoch, self._world.broadcast(score))
        return results, averaged

    def ends_early(self) -> bool:
        """Whether training ends here, at the beginning of an epoch, since validation gets no
        better; a collective. A run that goes on from a commit point has not seen the validation
        that came after it, and makes it again."""
        stopping, state = self._classifier.early_stopping, self._state
        if stopping is None:
            return False
        is_unseen = stopping.epoch < state.epoch and not state.examples_seen
        if is_unseen and self._validation is not None:
            self._validate(self._validation)
        self.ends = stopping.is_over
        return self.ends

    def _agree_to_stop(self) -> None:
        own = (self._stop.wanted, bool(self._classifier.stop_training), self._member.newcomers)
        rows = self._world.gather(own)
        asked = [rank for rank, (is_asked, _, _) in enumerate(rows) if is_asked]
        self.was_asked, self.leavers = bool(asked), []
        if 0 < len(asked) < self._world.size:
            self.was_asked, self.leavers = self._member.who_leaves(asked)
        stopping = self._classifier.early_stopping
        is_over = stopping is not None and stopping.is_over
        self.ends = self.was_asked or is_over or any(wants for _, wants, _ in rows)
        self.has_newcomers = rows[0][2] > 0

    def _show_agreement(self, repaired: Sequence[str]) -> None:
        for show in self._shows if self._world.size > 1 else ():
            for text in repaired:
                show.drifted(self._state.step, text)
            show.agreed(self._state.step)


def move_to_chief(world: World, metrics: Sequence[keras.metrics.Metric]) -> list[np.ndarray]:
    """Give the chief the sum over ranks of the metrics' states, and the others zeros; a collective.
    Returns the sums.

    So the chief's checkpoint holds those of the whole epoch so far.
    """
    variables = [variable for metric in metrics for variable in metric.variables]
    # Nothing is written before the last exchange: a sum and its count belong together.
    totals = [world.sum(variable.numpy()) for variable in variables]
    for variable, total in zip(variables, totals, strict=True):
        variable.assign(total if world.is_chief else np.zeros_like(total))
    return totals
