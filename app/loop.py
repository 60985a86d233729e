"""The training loop: drives `Classifier.train_step` over the epochs of a run, on every rank.

It is not `fit()`, because it resumes, times and counts what `fit()` hides. Any Keras callback works
in it: `on_train_batch_*` is called once per pass, with this rank's own running metrics in `logs`;
`on_epoch_end` gets those of all ranks, and exact `val_*`.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.classifier import Classifier
from app.config import Config
from app.data.augment.augment import Augment
from app.data.batches import Feed, Split
from app.data.order import EpochPlan, orders_of, owners_of
from app.distributed.guard import agree, compare
from app.distributed.world import World
from app.evaluation.evaluate import evaluate
from app.evaluation.scores import Scores
from app.monitor.progress import Place, Progress, Show
from app.monitor.reports import Reports, place_of
from app.monitor.timing import Clock
from app.preflight import with_fitting_batch
from app.schedule import Schedule, scaled_peak
from app.state import TrainState, reseed


class Loop:
    """Train for the epochs that `state` has not seen yet.

    At a commit point all ranks agree on one state; see `_commit`. It comes after every
    `commit_every_steps` optimizer steps, and at the end of each epoch.

    Args:
        config, world: the run and its ranks.
        state: holds a compiled `Classifier`; advanced in place.
        schedule: the optimizer's learning rate, moved along with the state.
        splits: "train", and "validation" if there is one.
        shows: what shows the run on this rank.
        save: called on every rank at each commit point, once all ranks are found to agree; returns
            the path of the checkpoint.
        callbacks: Keras callbacks.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        state: TrainState,
        schedule: Schedule,
        splits: dict[str, Split],
        shows: Sequence[Show],
        save: Callable[[], Path],
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ):
        self.config = config
        self.world = world
        self.state = state
        self.schedule = schedule
        self.splits = splits
        self.shows = shows
        self.save = save
        self.classifier: Classifier = state.model
        self.callbacks = keras.callbacks.CallbackList(
            list(callbacks), add_history=True, add_progbar=False, model=self.classifier
        )
        self.clock = Clock()
        state.optimizer.telemetry.keeps_gradients = config.run.histograms
        every = config.run.log_every_steps
        self._reports = Reports(world, state, self.clock, shows, self._examples, every)
        self._stops = False
        self._own_examples = 0  # trained on since the last commit point
        self._feed = _feed(config, self.classifier, splits["train"])
        balanced = config.training.imbalance == "balanced_sampling"
        self._order = orders_of(splits["train"].labels, splits["train"].files_of, balanced)
        self._traced: dict[int | None, Callable] = {}
        self.fit_to_world()

    def fit_to_world(self) -> None:
        """Derive everything that depends on the number of ranks, from the current state."""
        state, epochs, examples = self.state, self.config.training.epochs, self._examples
        training = with_fitting_batch(self.config, examples, self.world.size).training
        self.passes = training.backward_passes_per_step
        self.batch_size = training.examples_per_step(self.world.size)
        self.schedule.peak = scaled_peak(self.config.optimizer, self.batch_size)
        steps, left = self._steps_of(examples), self._steps_of(examples - state.examples_seen)
        self.total_steps = state.step + max(0, left + (epochs - state.epoch - 1) * steps)
        passes = [len(range(first, self.batch_size, self.passes)) for first in range(self.passes)]
        rank, size = self.world.rank, self.world.size
        self._usual_rows = {len(range(rank, examples_of_pass, size)) for examples_of_pass in passes}
        self._traced.clear()
        self.callbacks.set_params({"epochs": epochs, "steps": steps * self.passes})
        self._owners = _owners(self.config, self.world, self.splits["train"])

    @property
    def _examples(self) -> int:
        return len(self.splits["train"])

    def _steps_of(self, examples: int) -> int:
        """How many optimizer steps `examples` of one epoch take."""
        return -(-examples // self.batch_size)

    def run(self) -> None:
        """Train to the last epoch, or to the commit point at which a callback on any rank has
        asked to stop."""
        self.classifier.stop_training = self._stops = False
        self.callbacks.on_train_begin()
        logs: dict[str, float] = {}
        while self.state.epoch < self.config.training.epochs and not self._stops:
            logs = self._epoch()
        self._compare()  # callbacks may have changed something since
        self.callbacks.on_train_end(logs)

    def _epoch(self) -> dict[str, float]:
        """Train the rest of an epoch; returns the logs at its end, or where it was stopped."""
        state = self.state
        reseed(self.classifier, state.seed, self.world.rank, state.step)
        if not state.examples_seen:
            self.classifier.reset_metrics()
        self.callbacks.on_epoch_begin(state.epoch)
        self._reports.begin_epoch()
        self.clock.begin()
        first = self._steps_of(state.examples_seen) * self.passes
        for number, (batch, last_pass) in enumerate(self.clock.waits_for(self._batches()), first):
            self._pass(number, batch)
            if last_pass:
                self._count_step()
            if self._stops:
                return self._reports.end_epoch().metrics
        progress = self._reports.end_epoch()
        state.epoch, state.examples_seen = state.epoch + 1, 0
        return self._commit(progress)

    def _pass(self, number: int, batch: Any) -> None:
        """Forward and backward; after the last pass of a step, the update too."""
        self._move_schedule()
        self._reports.see(batch)
        self.callbacks.on_train_batch_begin(number)
        traces, rows = len(self._traced), len(batch.labels)
        logs = self._step_of(batch, rows if rows in self._usual_rows else None)(batch)
        self.clock.tick(int(batch.total), compiled=len(self._traced) > traces)
        self._own_examples += rows
        self.callbacks.on_train_batch_end(number, logs)

    def _step_of(self, batch: Any, rows: int | None) -> Callable:
        """The compiled step for batches of `rows` rows, or of any number if None.

        Which one a batch gets depends on nothing that came before, as it would with TensorFlow's
        `reduce_retracing`: graphs of other shapes differ in the last bits, and so would a run that
        is resumed.
        """
        if rows not in self._traced:
            specs = tf.nest.map_structure(lambda one: _spec_of(one, rows), batch)
            # Its own function: a shared one would give its trace for any number here too.
            step = tf.function(self.classifier.train_step, autograph=False)
            self._traced[rows] = step.get_concrete_function(specs)
        return self._traced[rows]

    def _count_step(self) -> None:
        """A step is done: commit, compare or report if it is time to."""
        state = self.state
        state.step += 1
        state.examples_seen = min(state.examples_seen + self.batch_size, self._examples)
        epoch_ends = state.examples_seen == self._examples
        if state.step % self.config.run.commit_every_steps == 0 and not epoch_ends:
            self._commit()
        elif state.step % self.config.distribution.guard_every_steps == 0:
            self._compare()
        self._reports.count_step(self.passes)

    def _commit(self, ended: Progress | None = None) -> dict[str, float]:
        """A commit point, where all ranks agree on one state; a collective.

        Settle and compare; at the end of an epoch validate; keep; only then tell callbacks and
        shows, so that none of them can cost what was learned; agree on whether to stop.

        `ended`: how the epoch that ends here went. Returns its logs.
        """
        state, validation = self.state, None
        examples, self._own_examples = self._own_examples, 0
        optimizer = self.classifier.optimizer
        agree(self.world, self.classifier, optimizer, examples, state.seed, state.step)
        self._show_agreement()
        move_to_chief(self.world, self.classifier.metrics)
        if ended is not None and "validation" in self.splits:
            validation = evaluate(self.classifier, self.splits["validation"], self.world)
        self._keep()
        logs = {} if ended is None else self._end_epoch(ended, validation)
        self._stops = any(self.world.gather(bool(self.classifier.stop_training)))
        return logs

    def _keep(self) -> None:
        began = time.monotonic()
        path = self.save()
        seconds = time.monotonic() - began
        for show in self.shows:
            show.checkpointed(self.state.step, path, seconds)

    def _end_epoch(self, ended: Progress, validation: Scores | None) -> dict[str, float]:
        """Tell callbacks and shows that an epoch has ended; returns its logs."""
        logs = dict(ended.metrics)
        if validation:
            logs |= {"val_loss": validation.loss, "val_accuracy": validation.accuracy}
        self.callbacks.on_epoch_end(self.state.epoch - 1, logs)
        for show in self.shows:
            show.epoch_ended(ended, validation)
        if self.config.run.histograms:
            self._reports.show_distributions()
        return logs

    def _compare(self) -> None:
        """The guard, between commit points; a collective."""
        compare(self.world, self.classifier, self.classifier.optimizer, self.state.step)
        self._show_agreement()

    def _show_agreement(self) -> None:
        if self.world.size > 1:
            for show in self.shows:
                show.agreed(self.state.step)

    def _move_schedule(self) -> None:
        """Set the rate of the next step from where the epoch is before and after it."""
        seen, examples = self.state.examples_seen, self._examples
        after = min(seen + self.batch_size, examples)
        self.schedule.move_to(
            self.state.epoch + seen / examples, self.state.epoch + after / examples
        )

    def _batches(self) -> Iterator[tuple[Any, bool]]:
        """(this rank's batch, whether the optimizer updates after it) of the rest of the epoch."""
        state, train = self.state, self.splits["train"]
        plan = EpochPlan(
            self._order(state.seed, state.epoch),
            self.batch_size,
            self.world.size,
            self.passes,
            state.examples_seen,
            "round robin" if train.files_of is None else "neighbours",
            self._owners,
        )
        batches = self._feed.training(plan, self.world.rank, state.epoch)
        for number, batch in enumerate(batches):
            yield batch, (number + 1) % self.passes == 0

    @property
    def place(self) -> Place:
        """How far training is."""
        return place_of(self.state, self._examples)


def _spec_of(tensor: tf.Tensor | None, rows: int | None) -> tf.TensorSpec | None:
    """The spec of a tensor in a batch of `rows` rows; the length of token ids varies by batch."""
    if tensor is None:
        return None
    if not tensor.shape.rank:
        return tf.TensorSpec([], tensor.dtype)
    is_ids = tensor.shape.rank == 2 and tensor.dtype.is_integer
    return tf.TensorSpec([rows, None] if is_ids else [rows, *tensor.shape[1:]], tensor.dtype)


def move_to_chief(world: World, metrics: Sequence[keras.metrics.Metric]) -> None:
    """Give the chief the sum over ranks of the metrics' states, and the others zeros; a collective.

    So the chief's checkpoint holds those of the whole epoch so far.
    """
    for variable in [variable for metric in metrics for variable in metric.variables]:
        total = world.sum(variable.numpy())
        variable.assign(total if world.is_chief else np.zeros_like(total))


def _feed(config: Config, classifier: Classifier, train: Split) -> Feed:
    """Makes the training batches, augmented if the config asks for it."""
    if not config.augmentation.is_on:
        return Feed(train)
    classes = classifier.network.output_shape[-1]
    return Feed(train, Augment(config.augmentation, classes, config.training.seed))


def _owners(config: Config, world: World, train: Split) -> np.ndarray | None:
    """The rank that trains on each example, where shards are to differ."""
    wanted = config.distribution
    if wanted.shard_by == "iid":
        return None
    seed, alpha = config.training.seed, wanted.dirichlet_alpha
    owners = owners_of(train.labels, wanted.shard_by, world.size, seed, alpha)
    # The Dirichlet shares are drawn as floats, which another machine could round differently.
    world.verify_same({"shards": hashlib.blake2b(owners.data, digest_size=8).hexdigest()})
    return owners
