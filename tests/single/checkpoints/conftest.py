"""The state of a small classifier, a disk that fails as told, and a run on images."""

import dataclasses
from collections.abc import Iterator

import pytest

from app.commands.saved_run import SavedRun
from app.state import TrainState
from tests.single.checkpoints.keeping import Disk
from tests.single.checkpoints.saved_runs import PLAN, run_of


@pytest.fixture
def make_state(make_classifier):
    """Makes the state of a classifier."""

    def make(**options: object) -> TrainState:
        classifier = make_classifier(**options)
        return TrainState(classifier, classifier.optimizer, seed=options.get("seed", 0))

    return make


@pytest.fixture
def trained(make_state, batch) -> TrainState:
    """A state after three steps."""
    state = make_state(seed=5, backward_passes_per_step=2)
    for _ in range(6):
        state.model.train_step(batch)
    state.step, state.epoch = 3, 1
    return state


@pytest.fixture
def state(make_classifier) -> TrainState:
    """A state that was not trained."""
    classifier = make_classifier()
    return TrainState(classifier, classifier.optimizer, seed=0)


@pytest.fixture
def disk(monkeypatch) -> Iterator[Disk]:
    """What the writing thread meets; let go at the end."""
    found = Disk(monkeypatch)
    yield found
    found.goes_on.set()


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> SavedRun:
    """A run on images, of a network with batch normalisation and dropout."""
    plan = dataclasses.replace(PLAN, image_shape=(8, 8, 3))
    directory = tmp_path_factory.mktemp("images") / "run"
    return run_of(directory, plan, model="resnet20", width=4, dropout=0.5)
