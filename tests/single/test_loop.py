"""The loop on one rank: what it counts as a step, and what it reports of it."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.build import build_optimizer, build_schedule
from app.classifier import Classifier
from app.data.batches import Loaded
from app.distributed.world import World
from app.loop import Loop
from app.monitor.progress import Progress, Show
from app.monitor.timing import Mark
from app.recipe import load
from app.state import TrainState

EXAMPLES, BATCH = 24, 4  # six steps an epoch


class Note(Show):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []

    def trained(self, progress: Progress) -> None:
        self.reports.append(progress)


def loop_of(show: Show, step: int = 0, **keys: Any) -> Loop:
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
    return Loop(config, World(), state, schedule, {"train": split}, [show], save=Path)


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
