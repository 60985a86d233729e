"""What the guard makes of the ranks' checksums."""

import keras
import numpy as np
import pytest

from app.distributed.guard import ReplicasDiverged, compare
from app.distributed.world import World


class Ranks(World):
    """Rank 0 of ranks whose checksums differ from its own in the first variable, by `changes`;
    a broadcast makes them equal if it `repairs`."""

    def __init__(self, *changes: int, repairs: bool = True):
        self.size, self.changes, self.repairs = len(changes), changes, repairs
        self.sent: list[tuple[list[str], int]] = []

    def gather(self, value):
        equal = self.sent and self.repairs
        changes = [0] * self.size if equal else self.changes
        return [value + np.eye(1, len(value), dtype=np.int64)[0] * by for by in changes]

    def broadcast_variables(self, variables, root=0):
        self.sent.append(([variable.path for variable in variables], root))


@pytest.fixture
def model() -> keras.Model:
    return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, name="only")])


@pytest.mark.parametrize(
    ("changes", "majority"),
    [((0, 0, 5), [0, 1]), ((0, 5, 5), [1, 2]), ((0, 5, 7, 7, 7), [2, 3, 4])],
)
def test_the_lowest_rank_of_the_majority_sends_what_differs(model, caplog, changes, majority):
    world = Ranks(*changes)
    (text,) = compare(world, model, None, 3, "repair")
    ((paths, root),) = world.sent
    assert len(paths) == 1 and paths[0].endswith("only/kernel") and root == majority[0]
    others = [rank for rank in range(len(changes)) if rank not in majority]
    assert text.startswith(f"step 3: rank(s) {others} had left lockstep in 1 of 2 variables")
    assert text.endswith(f"only/kernel', and got the values of the majority, rank(s) {majority}")
    assert text in caplog.text


@pytest.mark.parametrize("changes", [(0, 5), (0, 0, 5, 5), (0, 5, 7), (0, 0, 5, 7)])
def test_without_a_majority_nothing_is_sent_and_all_stop(model, changes):
    world = Ranks(*changes)
    with pytest.raises(ReplicasDiverged, match="only/kernel"):
        compare(world, model, None, 3, "repair")
    assert not world.sent


def test_unless_told_to_repair_the_guard_stops(model):
    world = Ranks(0, 0, 5)
    with pytest.raises(ReplicasDiverged, match=r"agree with each other: \[\[0, 1\], \[2\]\]"):
        compare(world, model, None, 3)
    assert not world.sent


def test_a_repair_that_does_not_help_is_an_error(model):
    with pytest.raises(ReplicasDiverged, match="only/kernel"):
        compare(Ranks(0, 0, 5, repairs=False), model, None, 3, "repair")


def test_what_is_frozen_is_compared_too(model):
    model.layers[-1].trainable = False
    assert not model.trainable_variables
    with pytest.raises(ReplicasDiverged, match="only/kernel"):
        compare(Ranks(0, 5), model, None, 3)
