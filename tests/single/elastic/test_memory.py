"""The copy of a commit point in memory: what is in it, and what brings it back."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from app.elastic.memory import Memory, scale_owed
from app.state import Kind, TrainState


@pytest.fixture
def state(make_classifier) -> TrainState:
    """A run with a variable of each kind."""
    classifier = make_classifier()
    classifier.optimizer.add_variable((2,), name="owed", kind=Kind.SUMMED)
    classifier.optimizer.add_variable((2,), name="sum", kind=Kind.LOCAL)
    classifier.optimizer.add_variable((2,), dtype="bfloat16", name="half", kind=Kind.SUMMED)
    made = TrainState(classifier, classifier.optimizer, 0, step=4, epoch=1, examples_seen=8)
    assert {entry.kind for entry in made.entries} == set(Kind)
    return made


def values(state: TrainState, derived: bool = False) -> dict[str, bytes]:
    return {
        entry.path: entry.variable.numpy().tobytes()
        for entry in state.entries
        if derived or entry.kind is not Kind.DERIVED
    }


def change(state: TrainState) -> None:
    for entry in state.entries:
        entry.variable.assign(np.ones(entry.variable.shape, entry.variable.dtype))
    state.step, state.epoch, state.examples_seen, state.halvings = 9, 2, 0, 1


def test_every_kind_of_variable_comes_back_with_the_same_bits_and_the_position(state) -> None:
    before, position = values(state), state.position
    memory = Memory.of(state, None)
    change(state)
    assert values(state) != before
    memory.restore(state)
    assert values(state) == before and state.position == position


def test_what_was_taken_does_not_move_with_the_run(state) -> None:
    memory = Memory.of(state, None)
    before = {path: value.tobytes() for path, value in memory.values.items()}
    change(state)
    assert {path: value.tobytes() for path, value in memory.values.items()} == before
    assert memory.position["step"] == 4


def test_random_generators_are_left_to_the_rank(state) -> None:
    memory = Memory.of(state, None)
    change(state)
    now = values(state, derived=True)
    memory.restore(state)
    restored = values(state, derived=True)
    generators = [entry.path for entry in state.entries if entry.kind is Kind.DERIVED]
    assert generators and all(restored[path] == now[path] for path in generators)
    assert not set(generators) & set(memory.values)


def test_it_comes_back_more_than_once(state) -> None:
    before = values(state)
    memory = Memory.of(state, None)
    for _ in range(2):
        change(state)
        memory.restore(state)
    assert values(state) == before


def test_an_optimizer_that_was_renewed_since_is_that_of_the_memory_again(state) -> None:
    renewed = []
    state.renew = lambda state: renewed.append(state.unfrozen_at)
    memory = Memory.of(state, None)
    state.move_to(state.position | {"unfrozen_at": 6})
    memory.restore(state)
    assert renewed == [6, 0]


@pytest.mark.parametrize(("dtype", "exact"), [("float32", np.float32), ("bfloat16", None)])
def test_what_is_owed_is_scaled_in_the_type_that_it_has(state, dtype, exact) -> None:
    before, position = values(state), state.position
    (owed,) = [
        entry.variable
        for entry in state.entries
        if entry.kind is Kind.SUMMED and entry.variable.dtype == dtype
    ]
    owed.assign([1.0, -3.0])
    scale_owed(state, 3 / 2)
    expected = np.array([1.5, -4.5], exact or ml_dtypes.bfloat16)
    assert owed.numpy().tobytes() == expected.tobytes()
    owed.assign(tf.zeros_like(owed.value))
    assert values(state) == before and state.position == position  # of the others
