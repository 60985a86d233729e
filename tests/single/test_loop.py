"""The loop on one rank: what it counts as a step, and what it reports of it."""

import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.build import build_optimizer, build_schedule
from app.checkpoints.keeper import Keeper, Written
from app.classifier import Classifier
from app.commit import Commits
from app.data.batches import Loaded
from app.distributed.world import World
from app.errors import UserError
from app.loop import Loop
from app.monitor.progress import Progress, Show
from app.monitor.timing import Mark
from app.recipe import load
from app.state import TrainState
from app.stop import Stop

EXAMPLES, BATCH = 24, 4  # six steps an epoch


class Note(Show):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []

    def trained(self, progress: Progress) -> None:
        self.reports.append(progress)


class Memory(Keeper):
    """Keeps states where a keeper would keep checkpoints."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, bool]] = []
        self.states: list[tuple[dict, list[np.ndarray]]] = []
        self._new: list[Written] = []

    def _variables(self, state: TrainState) -> list[keras.Variable]:
        of_metrics = [v for metric in state.model.metrics for v in metric.variables]
        return [*(entry.variable for entry in state.entries), *of_metrics]

    def keep(self, state: TrainState, about: dict, epoch_ends: bool) -> float:
        self.kept.append((state.step, epoch_ends))
        arrays = [variable.numpy() for variable in self._variables(state)]
        self.states.append((state.position, arrays))
        self._new.append(Written(state.step, Path(), 0.0, 0))
        return 0.0

    def scored(self, step: int, loss: float, accuracy: float) -> None: ...

    def wait(self) -> None: ...

    def written(self) -> list[Written]:
        new, self._new = self._new, []
        return new

    def restore_latest(self, state: TrainState, world_size: int | None = None) -> Path | None:
        if not self.states:
            return None
        position, arrays = self.states[-1]
        for variable, array in zip(self._variables(state), arrays, strict=True):
            variable.assign(array)
        state.move_to(position)
        return Path()


def loop_of(
    show: Show,
    step: int = 0,
    callbacks: Any = (),
    keeper: Keeper | None = None,
    stop: Stop | None = None,
    **keys: Any,
) -> Loop:
    """A loop over random images of three classes that has done so many steps."""
    config = load(None, {"global_batch_size": BATCH, "epochs": 1, "schedule": "constant", **keys})
    random = np.random.default_rng(0)
    pixels = tf.constant(random.integers(0, 256, (EXAMPLES, 4, 4, 1)).astype(np.uint8))
    split = Loaded(pixels, random.integers(0, 3, EXAMPLES))
    layers = [keras.layers.Input((4, 4, 1)), keras.layers.Rescaling(1 / 255)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(3, name="logits")]
    classifier = Classifier(keras.Sequential(layers))
    schedule = build_schedule(config, 1)
    optimizer = build_optimizer(config, schedule, World())
    classifier.compile(optimizer)
    optimizer.build(classifier.trainable_variables)
    state = TrainState(classifier, optimizer, 0, step=step, examples_seen=step * BATCH)
    return Loop(config, World(), state, schedule, {"train": split}, [show], keeper, callbacks, stop)


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize(
    ("every", "step", "reported"),
    [(1, 0, [1, 2, 3, 4, 5, 6]), (3, 0, [3, 6]), (1, 4, [5, 6]), (3, 2, [3, 6])],
)
def test_every_reported_step_was_looked_into_also_the_first(every, step, reported, passes) -> None:
    note = Note()
    keys = {"log_every_steps": every, "backward_passes_per_step": passes}
    loop_of(note, step, **keys).run()
    assert [progress.step for progress in note.reports] == reported
    norms = [progress.facts.gradient_norm for progress in note.reports]
    assert min(norms) > 0 and len(set(norms)) == len(norms)  # each of a step of its own


@pytest.mark.parametrize("passes", [1, 2])
def test_times_and_bytes_are_those_of_a_step_and_not_of_a_pass(passes, monkeypatch) -> None:
    note = Note()
    loop = loop_of(note, log_every_steps=3, backward_passes_per_step=passes)
    timed = Mark(passes=3 * passes, seconds=6.0, waited=1.5, stepped=3.0)
    monkeypatch.setattr(loop.clock, "since", lambda mark=None: timed)
    sent = iter([0.0, 300.0, 600.0])  # bytes: when the epoch begins, and at each report
    telemetry = type(loop.state.optimizer.telemetry)
    monkeypatch.setattr(telemetry, "totals", property(lambda _: (0.0, next(sent), 0.0)))
    loop.run()
    for progress in note.reports:
        np.testing.assert_allclose(progress.times.whole, [2.0])
        assert progress.bytes_sent == 100.0


def test_steps_that_compiled_are_counted_among_those_that_sent(monkeypatch) -> None:
    note = Note()
    loop = loop_of(note, log_every_steps=2)
    monkeypatch.setattr(loop.clock, "since", lambda mark=None: Mark(passes=1, seconds=1.0))
    sent = iter([0.0, 200.0, 400.0, 600.0])
    telemetry = type(loop.state.optimizer.telemetry)
    monkeypatch.setattr(telemetry, "totals", property(lambda _: (0.0, next(sent), 0.0)))
    loop.run()
    assert [progress.bytes_sent for progress in note.reports] == [100.0] * 3


class Watch(Show):
    """Keeps when it is told of checkpoints and epochs."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def checkpointed(self, step: int, path: Path, seconds: float) -> None:
        self.told.append(step)

    def epoch_ended(self, progress: Progress, validation: Any) -> None:
        self.told.append(f"epoch {progress.epoch}")


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize(
    ("every", "step", "told"),
    [
        (4, 0, [4, 6, "epoch 1", 8, 12, "epoch 2"]),
        (3, 0, [3, 6, "epoch 1", 9, 12, "epoch 2"]),  # once, where an epoch ends with one
        (4, 5, [6, "epoch 1", 8, 12, "epoch 2"]),
        (1000, 0, [6, "epoch 1", 12, "epoch 2"]),
    ],
)
def test_commit_points_are_counted_in_steps_and_end_each_epoch(every, step, told, passes) -> None:
    watch = Watch()
    keys = {"commit_every_steps": every, "backward_passes_per_step": passes, "epochs": 2}
    loop_of(watch, step, keeper=Memory(), **keys).run()
    assert watch.told == told


def test_a_wish_to_stop_is_granted_at_the_next_commit_point() -> None:
    class Ends(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    watch = Watch()
    loop = loop_of(watch, callbacks=[Ends()], keeper=Memory(), commit_every_steps=3)
    loop.run()
    assert (loop.state.step, loop.state.epoch, loop.state.examples_seen) == (3, 0, 3 * BATCH)
    assert watch.told == [3]


def test_batches_of_a_resumed_epoch_keep_their_numbers() -> None:
    numbers = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: numbers.append(batch)
    )
    loop_of(Watch(), 4, [note], backward_passes_per_step=2).run()
    assert numbers == [8, 9, 10, 11]


class Asked(keras.callbacks.Callback):
    """Is asked to stop after a pass."""

    def __init__(self, stop: Stop, batch: int):
        super().__init__()
        self.stop, self.batch = stop, batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == self.batch:
            self.stop.signal = signal.SIGTERM


@pytest.mark.parametrize(
    ("asked_after", "every", "near", "stopped_at"),
    [
        (1, 1000, False, 4),  # heard in the third step, read while the fourth ran
        (1, 5, True, 5),  # a commit point is near
        (1, 3, False, 3),  # the wish is seen by itself at a commit point
        (5, 1000, False, 6),  # at the end of the epoch
        (4, 1000, False, 6),
    ],
)
def test_a_run_that_is_asked_to_stop_ends_at_a_commit_point(
    asked_after, every, near, stopped_at, monkeypatch
) -> None:
    monkeypatch.setattr(Commits, "is_near", lambda *_: near)
    stop, keeper = Stop(), Memory()
    callbacks = [Asked(stop, asked_after)]
    keys = {"commit_every_steps": every, "epochs": 3, "checkpoint_every_commits": 100}
    loop = loop_of(Watch(), callbacks=callbacks, keeper=keeper, stop=stop, **keys)
    loop.run()
    assert loop.commits.was_asked
    assert keeper.kept == [(stopped_at, True)]  # surely: it is the last


def test_a_resumed_run_goes_on_where_it_was_asked_to_stop() -> None:
    seen: list[int] = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    stop, keeper = Stop(), Memory()
    loop_of(Watch(), callbacks=[count, Asked(stop, 3)], keeper=keeper, stop=stop).run()
    loop = loop_of(Watch(), callbacks=[count])
    keeper.restore_latest(loop.state)
    loop.run()
    assert sorted(seen) == list(range(6))


class Worse(keras.callbacks.Callback):
    """Puts the weights far off, before the step of this number, the first time it comes."""

    def __init__(self, state: Any, step: int, times: int = 1, value: float = 1e6):
        super().__init__()
        self.state, self.step, self.times, self.value = state, step, times, value

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.state().step + 1 == self.step and self.times:
            self.times -= 1
            kernel = self.model.trainable_variables[0]
            kernel.assign(np.where(np.arange(kernel.shape[-1]), self.value, -self.value) + kernel)


def worsen(loop: Loop, times: int = 1) -> None:
    loop.callbacks.callbacks.append(Worse(lambda: loop.state, 10, times))
    loop.callbacks.set_model(loop.classifier)


KEYS = {"log_every_steps": 1, "commit_every_steps": 2, "epochs": 4, "learning_rate": 1e-4}


def test_a_jump_of_the_loss_sends_training_back_at_half_the_rate() -> None:
    told, keeper = [], Memory()
    note = Watch()
    note.skipped = lambda step, text: told.append(text)
    loop = loop_of(note, keeper=keeper, on_loss_spike="go_back", **KEYS)
    peak = loop.schedule.peak
    worsen(loop)
    loop.run()
    assert told[0].startswith("the loss has jumped from")
    assert told[1] == "going back from step 10 to 8, on at 0.5 of the learning rate"
    assert len(told) == 2 and loop.state.halvings == 1 and loop.schedule.peak == peak / 2
    assert [step for step, _ in keeper.kept] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]
    assert (loop.state.step, loop.state.epoch) == (24, 4)
    assert np.abs(loop.classifier.trainable_variables[0].numpy()).max() < 100


def test_a_loss_that_jumps_each_time_ends_the_run() -> None:
    loop = loop_of(Watch(), keeper=Memory(), on_loss_spike="go_back", **KEYS)
    worsen(loop, times=10)
    with pytest.raises(UserError, match="gone back to step 8 3 times"):
        loop.run()


def test_a_jump_of_the_loss_is_only_said_by_default() -> None:
    told: list[str] = []
    note = Watch()
    note.skipped = lambda step, text: told.append(text)
    loop = loop_of(note, keeper=Memory(), **KEYS)
    worsen(loop)
    loop.run()
    assert told and all(text.startswith("the loss has jumped") for text in told)
    assert loop.state.halvings == 0
