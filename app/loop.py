"""The training loop: drives `Classifier.train_step` over the epochs of a run, on every rank.

It is not `fit()`, because it resumes, times and counts what `fit()` hides. Any Keras callback works
in it: `on_train_batch_*` is called once per pass, with this rank's own running metrics in `logs`;
`on_epoch_end` gets those of all ranks, and exact `val_*`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from app.build import build_feed
from app.checkpoints.keeper import Keeper
from app.classifier import Classifier
from app.commit import Commits
from app.commit_times import CommitTimes
from app.config import Config
from app.data.batches import Split, spec_of
from app.data.heads import strata
from app.data.order import orders_of
from app.distributed.world import World
from app.elastic.member import Member
from app.epochs import Epochs
from app.health import Health
from app.monitor.goodput import Goodput
from app.monitor.progress import Place, Progress, Show
from app.monitor.reports import Reports, place_of
from app.monitor.timing import Clock
from app.pulse import PULSE
from app.schedule import Schedule, scaled_peak
from app.setbacks import Setbacks
from app.state import TrainState, reseed
from app.stop import Stop, Stopped


class Loop:
    """Train for the epochs that `state` has not seen yet.

    At a commit point all ranks agree on one state; see app/commit.py and app/commit_times.py. Under
    `local_epochs` an epoch is one round, so that each example comes `local_epochs` times in it.

    Args:
        config, world: the run and its ranks.
        state: holds a compiled `Classifier`; advanced in place.
        schedule: the optimizer's learning rate, moved along with the state.
        splits: "train", and "validation" if there is one.
        shows: what shows the run on this rank.
        keeper: keeps the checkpoints; the chief's, None on other ranks.
        callbacks: Keras callbacks.
        stop: whether this process has been asked to stop.
        goodput: where the time goes; kept by the chief.
        on_landing: called when the world has become another one; see `Lead.land`.
    """

    reports_of: type[Reports] = Reports

    def __init__(
        self,
        config: Config,
        world: World,
        state: TrainState,
        schedule: Schedule,
        splits: dict[str, Split],
        shows: Sequence[Show],
        keeper: Keeper | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        stop: Stop | None = None,
        goodput: Goodput | None = None,
        on_landing: Callable[[bool, int], Keeper | None] | None = None,
    ):
        self.config = config
        self.world = world
        self.state = state
        self.schedule = schedule
        self.splits = splits
        self.stop = stop or Stop()
        self.classifier: Classifier = state.model
        self.callbacks = keras.callbacks.CallbackList(
            list(callbacks), add_history=True, add_progbar=False, model=self.classifier
        )
        self.clock = Clock()
        self._log_every = config.run.log_every_steps
        self._reports = self.reports_of(
            world, state, self.clock, shows, self._examples, self._log_every
        )
        self.goodput = goodput or Goodput(None)
        self.member = Member(config, world, state)
        self._on_landing = on_landing
        self.commits = Commits(
            config,
            world,
            state,
            splits,
            shows,
            keeper,
            self.goodput,
            self._reports,
            self.callbacks,
            self.stop,
            self.member,
        )
        self._health = Health(world, shows, config.training.stop_after_bad_steps)
        self._setbacks = Setbacks(config, world, state, self._health, self.goodput, self.commits)
        self._shows = shows
        self._heard: tf.Tensor | None = None  # what ranks said in the last step
        self._has_asked = self._is_ending = False
        self._begins_anew = False  # at another place than the end of this epoch
        self._own_examples = 0  # trained on since the last commit point
        self._pending: Progress | None = None  # an epoch whose end is not over
        counts = self.classifier.normalises
        self._feed = build_feed(config, self.classifier.classes, splits["train"], counts)
        balanced = config.training.imbalance == "balanced_sampling"
        self._order = orders_of(strata(splits["train"].labels), splits["train"].files_of, balanced)
        self._traced: dict[bool, Callable] = {}  # by whether a batch has examples
        self.fit_to_world()

    def fit_to_world(self) -> None:
        """Derive everything that depends on the number of ranks or on what is frozen, from the
        current state."""
        state, epochs = self.state, self.config.training.epochs
        state.optimizer.telemetry.keeps_gradients = self.config.run.histograms
        state.optimizer.settles = True  # at commit points
        self._epochs = Epochs(self.config, self.world, self.splits["train"], self._order)
        self.passes, self.batch_size = self._epochs.passes, self._epochs.batch_size
        self.schedule.peak = scaled_peak(self.config.optimizer, self.batch_size) * state.rate
        steps = self._epochs.steps_of(self._examples)
        left = self._epochs.steps_of(self._examples - state.examples_seen)
        self.total_steps = state.step + max(0, left + (epochs - state.epoch - 1) * steps)
        self._times = CommitTimes(self.config, self._epochs, state)
        self._move_average(self.place.examples)
        self.callbacks.set_params({"epochs": epochs, "steps": steps * self.passes})

    @property
    def _examples(self) -> int:
        """Examples of an epoch."""
        return len(self.splits["train"]) * (self.config.distribution.local_epochs or 1)

    def run(self) -> None:
        """Train to the last epoch, or to the commit point at which all ranks have agreed to stop:
        a callback on any of them wants to, or one has been asked to (`commits.was_asked`)."""
        self.classifier.stop_training = self.commits.ends = False
        if self.world.is_chief:
            self._epochs.warn_of_few_rounds(self.total_steps)
        self.goodput.begin(self.state.step)
        self.callbacks.on_train_begin()
        logs: dict[str, float] = {}
        self.member.begins()
        with self.stop.deferred():
            while self._is_on():
                try:
                    logs = self._commit(self._pending) if self._pending else self._epoch()
                except Exception as error:
                    if not self.member.survives(error):
                        raise
                    self._go_on_with_others(planned=False)
            self.stop.reached()
            if self.world.is_chief:
                self.member.trained()
            self.commits.compare()  # callbacks may have changed something since
            self.callbacks.on_train_end(logs)

    def _is_on(self) -> bool:
        is_left = self.state.epoch < self.config.training.epochs or self._pending is not None
        return is_left and not self.commits.ends

    def join(self) -> None:
        """Come into a run that goes on, as a newcomer: warm up alone, wait to be let in."""
        if self.state.optimizer.is_plain:  # otherwise steps are traced anew with all ranks
            with contextlib.closing(self._batches()) as batches:  # type: ignore[type-var]
                batch, _ = next(batches)
                self._step_of(batch)(batch)
        self._go_on_with_others(planned=True, is_new=True)

    def _go_on_with_others(self, planned: bool, is_new: bool = False) -> None:
        """Into another world, from where its ranks are; a collective of these."""
        landing = self.member.cross(planned, self._pending, is_new)
        self._begin_anew(landing.retraces)
        self._reports.fit_to_world()
        self._health.begin_anew()
        self._is_ending, self._pending = False, landing.pending
        if self._on_landing is not None:
            self.commits.keeper = self._on_landing(landing.went_back, self.total_steps)
        if landing.went_back:  # in the ledger that this rank may have taken over just now
            self.goodput.lost_since(self.state.step)
        for show in self._shows:
            show.resized(self.state.step, landing.text)

    def _leave_or_let_in(self) -> None:
        """The world changes at this commit point."""
        if self.world.rank in self.commits.leavers:
            self.member.leaves()
            self.stop.reached()
            raise Stopped(
                f"this rank has left the others at step {self.state.step}, since it was asked to"
            )
        self._go_on_with_others(planned=True)

    def _unfreeze(self) -> None:
        """Let what is frozen learn from here on, if it is time; with a new optimizer, whose
        moments are empty, and compared and traced anew by all ranks."""
        state, at = self.state, self.config.fine_tuning.unfreeze_epoch
        if at is not None and state.epoch >= at and not state.unfrozen_at:
            state.move_to(state.position | {"unfrozen_at": state.step})
            self._traced.clear()
            self.fit_to_world()
            self.member.remembers(None)  # now there may be statistics of batches

    def _epoch(self) -> dict[str, float]:
        """Train the rest of an epoch; returns the logs at its end, or where it was stopped."""
        if self.commits.ends_early():
            return {}
        self._unfreeze()
        state = self.state
        self._begins_anew = False
        reseed(self.classifier, state.seed, self.world.rank, state.step)
        if not state.examples_seen:
            self.classifier.reset_metrics()
        self._health.forget()
        self.callbacks.on_epoch_begin(state.epoch)
        self._reports.begin_epoch()
        self.clock.begin()
        PULSE.enter("input")
        first = self._epochs.steps_of(state.examples_seen) * self.passes
        for number, (batch, last_pass) in enumerate(self.clock.waits_for(self._batches()), first):
            heard = self._pass(number, batch)
            if last_pass:
                self._count_step(heard)
            if self._begins_anew:  # perhaps with others, so no collective comes here
                self.clock.pause()
                return {}
            if self.commits.ends:
                return self._reports.end_epoch().metrics
            PULSE.enter("input")
        with PULSE.during("reports"):
            progress = self._reports.end_epoch()
        if self._setbacks.loss_jumps(progress, commits=True) and self._go_back():
            return progress.metrics
        state.epoch, state.examples_seen = state.epoch + 1, 0
        return self._commit(progress)

    def _pass(self, number: int, batch: Any) -> tf.Tensor:
        """Forward and backward; after the last pass of a step, the update too. Returns what ranks
        have said in the newest exchange."""
        PULSE.enter("callbacks")
        self._move_schedule()
        self._reports.see(batch)
        self.callbacks.on_train_batch_begin(number)
        if self.stop.wanted and not self._has_asked:
            self._has_asked = True
            self.state.optimizer.signals.ask_to_stop()
        traces, rows = len(self._traced), len(batch.labels)
        step = self._step_of(batch)
        PULSE.enter("step" if len(self._traced) == traces else "first trace")
        logs, heard = step(batch)
        self.clock.tick(int(batch.total), compiled=len(self._traced) > traces)
        self._own_examples += rows
        PULSE.enter("callbacks")
        self.callbacks.on_train_batch_end(number, logs)
        return heard

    def _step_of(self, batch: Any) -> Callable:
        """The compiled step for batches like this one: without examples, or with any number.

        Which one a batch gets depends on nothing that came before, as it would with TensorFlow's
        `reduce_retracing`: graphs of other shapes differ in the last bits, and so would a run that
        is resumed. When the number of ranks changes, both stay as they are.
        """

        def step(batch: Any) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
            return self.classifier.train_step(batch), self.state.optimizer.signals.heard()

        has_examples = bool(len(batch.labels))
        if has_examples not in self._traced:
            with PULSE.during("first trace"), self.classifier.never_empty():
                rows = None if has_examples else 0
                specs = spec_of(batch, rows)
                # Its own function: a shared one would give its trace for any number here too.
                traced = tf.function(step, autograph=False)
                self._traced[has_examples] = traced.get_concrete_function(specs)
        return self._traced[has_examples]

    def _count_step(self, heard: tf.Tensor) -> None:
        """A step is done: report, act on what ranks have said, commit or compare."""
        state = self.state
        state.step += 1
        PULSE.step = state.step
        state.examples_seen = self._epochs.seen_after_step(state.examples_seen)
        with PULSE.during("reports"):
            progress = self._reports.count_step(self.passes)
        commits = self._times.is_now
        # Of the step before: reading this one's would wait for it, and leave a GPU idle.
        before, self._heard = self._heard, heard
        if self._is_bad(before):
            return
        if self._setbacks.loss_jumps(progress, commits) and self._go_back():
            return
        if commits:
            self._commit()
        elif self._times.compares_now:
            self.commits.compare()
        if self._begins_anew:
            return
        if before is not None and before.numpy()[0] > 0 and not self._is_ending:
            self._is_ending = True
            if not self.commits.ends:
                self._end_soon()

    def _is_bad(self, heard: tf.Tensor | None) -> bool:
        """Whether training has gone back, since steps stay bad; all ranks see it after the same
        one. Raises UserError where it cannot."""
        said = None if heard is None else heard.numpy()
        if not self._setbacks.steps_stay_bad(said, self._first_bad):
            return False
        if not self._go_back():
            raise self._health.too_many()
        return True

    def _first_bad(self) -> str | None:
        """Where this rank's numbers went bad in the newest step that was bad on any rank."""
        return self.state.optimizer.signals.first_bad()

    def _end_soon(self) -> None:
        """A rank has been asked to stop: end at a commit point, one made for it if none is near; at
        the end of a round, if that is near.

        One that an undisturbed run would not make may change what ranks hold apart from each other
        (BatchNorm's statistics, dropout), so that the bits of a resumed run differ from its.
        """
        state = self.state
        for show in self._shows:
            show.stopping(state.step, "a rank was asked to stop")
        since = self.clock.since()
        speed = since.passes / self.passes / since.seconds if since.seconds else 0.0
        for every, ahead, ends_epoch in self._times.choices():
            if self.commits.is_near(ahead, speed, ends_epoch):
                self._times.come_every(every)
                return
        self._commit()

    def _go_back(self) -> bool:
        """See `Setbacks.go_back`."""
        if not self._setbacks.go_back():
            return False
        self._begin_anew(retraces=True)
        return True

    def _begin_anew(self, retraces: bool) -> None:
        """Training is at another place, or has another number of ranks."""
        if retraces:
            self._traced.clear()
        self.fit_to_world()
        self._heard, self._own_examples, self._begins_anew = None, 0, True

    def _commit(self, ended: Progress | None = None) -> dict[str, float]:
        examples, self._own_examples = self._own_examples, 0
        self._pending = ended
        logs = self.commits.make(examples, ended)
        self._pending = None
        self.member.has_ended_epoch()
        self._heard = self.state.optimizer.signals.heard()  # a round may have ended only now
        if not self.commits.ends and (
            self.commits.leavers or (self.commits.has_newcomers and self._is_on())
        ):
            self._leave_or_let_in()
        return logs

    def _move_schedule(self) -> None:
        """Set the rate of the next step from where the epoch is before and after it."""
        seen, examples = self.state.examples_seen, self._examples
        after = self._epochs.seen_after_step(seen)
        done = self.state.epoch + seen / examples
        self.schedule.move_to(done, self.state.epoch + after / examples)
        self.state.optimizer.move_to(done)
        self._move_average(self.state.epoch * examples + after)

    def _move_average(self, examples: int) -> None:
        """Tell the average of the weights, if there is one, where the next step takes training."""
        if self.classifier.weight_average is not None:
            self.classifier.weight_average.move_to(examples)

    def _batches(self) -> Iterator[tuple[Any, bool]]:
        """(this rank's batch, whether the optimizer updates after it) of the rest of the epoch."""
        state = self.state
        plan = self._epochs.plan(state.seed, state.epoch, state.examples_seen)
        batches = self._feed.training(plan, self.world.rank, state.epoch)
        for number, batch in enumerate(batches):
            yield batch, (number + 1) % self.passes == 0

    def notes(self) -> dict[str, str]:
        """What is to be said of this loop before it trains, beside what is said of every run."""
        return {}

    def results(self) -> dict[str, Any]:
        """The same, after it: plain JSON values."""
        return {}

    @property
    def stragglers(self) -> list[dict[str, Any]]:
        """The ranks that held the others up; see `Stragglers.summary`."""
        return self._reports.stragglers.summary()

    @property
    def place(self) -> Place:
        """How far training is."""
        return place_of(self.state, self._examples)
