"""The state of a small classifier."""

import pytest

from app.state import TrainState


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
