"""The training loop: drives `Classifier.train_step` over the epochs of a run, on every rank.

Its own loop and not `fit()`, because it resumes, times and counts what `fit()` hides. Any Keras
callback works in it: `on_train_batch_*` come once per pass with this rank's own running metrics in
`logs`; `on_epoch_end` has those of all ranks, and exact `val_*`.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf

from app.classifier import Classifier
from app.config import Config
from app.data.augment.augment import Augment
from app.data.batches import Feed, Split
from app.data.order import EpochPlan, orders_of, owners_of
from app.distributed.guard import compare
from app.distributed.replicas import average_statistics, sum_metrics
from app.distributed.world import World
from app.evaluation.evaluate import evaluate
from app.monitor.progress import Place, Progress, Show
from app.monitor.timing import Clock, Mark, RankTimes
from app.schedule import Schedule
from app.state import TrainState, reseed


class Loop:
    """Train for the epochs that `state` has not seen yet.

    Args:
        config, world: the run and its ranks.
        state: holds a compiled `Classifier`; advanced in place.
        schedule: the optimizer's learning rate, moved along with the state.
        splits: "train", and "validation" if there is one.
        shows: what shows it on this rank; `Nothing` stands for one of the chief's elsewhere.
        save: called on every rank after each epoch, once all ranks were found to agree; before
            shows and callbacks hear of the epoch, so that none of them can cost it.
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
        save: Callable[[], Any],
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
        self.batch_size = config.training.examples_per_step(world.size)
        self.passes = config.training.backward_passes_per_step
        steps = self._steps_of(len(splits["train"]))
        left = config.training.epochs - state.epoch - 1
        self.total_steps = state.step + max(0, self._steps_left_in_epoch + left * steps)
        self.callbacks = keras.callbacks.CallbackList(
            list(callbacks),
            add_history=True,
            add_progbar=False,
            model=self.classifier,
            epochs=config.training.epochs,
            steps=steps * self.passes,
        )
        self.clock = Clock()
        self._telemetry = self.classifier.optimizer.telemetry
        self._telemetry.keeps_gradients = config.run.histograms
        self._seen = False
        self._feed = _feed(config, self.classifier, splits["train"])
        balanced = config.training.imbalance == "balanced_sampling"
        self._order = orders_of(splits["train"].labels, splits["train"].files_of, balanced)
        self._owners = _owners(config, world, splits["train"])
        self._step = tf.function(self.classifier.train_step, autograph=False, reduce_retracing=True)

    def _steps_of(self, examples: int) -> int:
        """The optimizer steps that so many examples of one epoch take."""
        return -(-examples // self.batch_size)

    @property
    def _steps_left_in_epoch(self) -> int:
        return self._steps_of(len(self.splits["train"]) - self.state.examples_seen)

    def run(self) -> None:
        """Train to the last epoch, or until a callback on any rank asks to stop."""
        self.classifier.stop_training = False
        self.callbacks.on_train_begin()
        self._look_ahead()
        logs: dict[str, float] = {}
        while self.state.epoch < self.config.training.epochs:
            logs = self._epoch()
            if any(self.world.gather(bool(self.classifier.stop_training))):
                break
        self.callbacks.on_train_end(logs)

    def _epoch(self) -> dict[str, float]:
        """One epoch: train, agree, validate, save, show; returns the logs of its end."""
        state = self.state
        reseed(self.classifier, state.seed, self.world.rank, state.epoch)
        self.classifier.reset_metrics()
        self.callbacks.on_epoch_begin(state.epoch)
        epoch_began = self._reported = self.clock.mark
        self._reported_step = state.step
        self._sent = self._telemetry.totals
        own_examples = 0
        self.clock.begin()
        for number, (batch, last_pass) in enumerate(self.clock.waits_for(self._batches())):
            self._move_schedule()
            self._show_samples(batch)
            self.callbacks.on_train_batch_begin(number)
            traces = self._step.experimental_get_tracing_count()
            logs = self._step(batch)
            compiled = self._step.experimental_get_tracing_count() > traces
            self.clock.tick(int(batch.total), compiled)
            own_examples += len(batch.labels)
            self.callbacks.on_train_batch_end(number, logs)
            if last_pass:
                self._count_step()
        metrics = self._metrics()
        self.clock.pause()
        progress = self._progress(metrics, epoch_began)
        state.epoch, state.examples_seen = state.epoch + 1, 0
        average_statistics(self.world, self.classifier, own_examples)
        compare(self.world, self.classifier, self.classifier.optimizer, state.step)
        validation = None
        if "validation" in self.splits:
            validation = evaluate(self.classifier, self.splits["validation"], self.world)
        self.save()
        logs = dict(progress.metrics)
        if validation:
            logs |= {"val_loss": validation.loss, "val_accuracy": validation.accuracy}
        self.callbacks.on_epoch_end(state.epoch - 1, logs)
        for show in self.shows:
            show.epoch_ended(progress, validation)
        if self.config.run.histograms:
            self._show_distributions()
        return logs

    def _move_schedule(self) -> None:
        """The rate of the next step, from how much of the epoch is behind and will be after it."""
        seen, examples = self.state.examples_seen, len(self.splits["train"])
        after = min(seen + self.batch_size, examples)
        self.schedule.move_to(
            self.state.epoch + seen / examples, self.state.epoch + after / examples
        )

    def _show_samples(self, batch: Any) -> None:
        """What the model sees, of the first batch."""
        if not self._seen:
            self._seen = True
            for show in self.shows:
                show.sees(self.place, self.classifier.network, batch)

    def _show_distributions(self) -> None:
        variables = self.classifier.trainable_variables
        weights = {variable.path: variable.numpy() for variable in variables}
        gradients = dict(zip(weights, self._telemetry.gradients, strict=False))
        for show in self.shows:
            show.distributions(self.state.step, weights, gradients)

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

    def _count_step(self) -> None:
        state = self.state
        state.step += 1
        state.examples_seen = min(state.examples_seen + self.batch_size, len(self.splits["train"]))
        if state.step % self.config.run.log_every_steps == 0:
            self._report()
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Have the next step note its norms, if it is one to be reported."""
        if (self.state.step + 1) % self.config.run.log_every_steps == 0:
            self._telemetry.look()

    def _report(self) -> None:
        """Show what happened since the last report; a collective."""
        progress = self._progress(self._metrics(), self._reported)
        passed, sent = self.clock.since(self._reported), self._telemetry.totals
        exposed_s, in_bytes, uncompressed = np.subtract(sent, self._sent).tolist()
        used = psutil.Process().memory_info().rss
        timed_steps = passed.passes / self.passes
        row = (timed_steps, passed.seconds, passed.waited, passed.stepped, exposed_s, used)
        table = self.world.allgather(tf.constant([row], tf.float64), "loop.times").numpy()
        steps = self.state.step - self._reported_step
        progress = dataclasses.replace(
            progress,
            times=RankTimes.of(table[:, :5]),
            memory_bytes=table[:, 5],
            facts=self._telemetry.facts,
            bytes_sent=in_bytes / steps,
            bytes_uncompressed=uncompressed / steps,
        )
        self._reported, self._sent = self.clock.mark, sent
        self._reported_step = self.state.step
        for show in self.shows:
            show.trained(progress)

    @property
    def place(self) -> Place:
        """How far training is."""
        return place_of(self.state, len(self.splits["train"]))

    def _metrics(self) -> dict[str, float]:
        """The epoch's metrics so far over all ranks; a collective."""
        return sum_metrics(self.world, self.classifier.metrics)

    def _progress(self, metrics: dict[str, float], since: Mark) -> Progress:
        state, optimizer = self.state, self.classifier.optimizer
        scale = getattr(optimizer.inner_optimizer, "dynamic_scale", None)
        return Progress(
            epoch=state.epoch + 1,
            step=state.step,
            metrics=metrics,
            examples_per_second=self.clock.since(since).examples_per_second,
            learning_rate=float(optimizer.learning_rate),
            examples=self.place.examples,
            skipped_steps=state.step - int(optimizer.iterations),
            loss_scale=None if scale is None else float(scale),
        )


def place_of(state: TrainState, examples: int) -> Place:
    """How far a run over so many training examples is."""
    return Place(state.step, state.epoch, state.epoch * examples + state.examples_seen)


def _feed(config: Config, classifier: Classifier, train: Split) -> Feed:
    """What makes the training batches, augmented if asked for."""
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
    # The shares of Dirichlet are drawn as floats: another machine could round one differently.
    world.verify_same({"shards": hashlib.blake2b(owners.data, digest_size=8).hexdigest()})
    return owners
