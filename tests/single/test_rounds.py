"""The loop where models are averaged in rounds: when it commits, stops and warns; on one rank."""

import logging

import keras
import numpy as np
import pytest

from app.commit import Commits
from app.distributed.optimizer import DistributedOptimizer
from app.distributed.options import Sync
from app.distributed.world import World
from app.stop import Stop
from tests.single.test_loop import EXAMPLES, Asked, Memory, Note, loop_of

LOCAL = {"sync": "local", "sync_every_steps": 2}
FEDERATED = {
    "sync": "local",
    "local_epochs": 3,
    "shard_by": "label",
    "global_batch_size": None,
    "per_rank_batch_size": 5,  # 24 examples: 5 steps a pass
}


@pytest.mark.parametrize(
    ("keys", "commits"),
    [
        ({"commit_every_steps": 2}, [2, 4, 6, 8, 10, 12]),
        ({"commit_every_steps": 4}, [4, 6, 10, 12]),  # counted anew from the epoch's begin
        ({}, [6, 12]),
        (FEDERATED, [15, 30]),
    ],
)
def test_commit_points_lie_at_ends_of_rounds(keys, commits) -> None:
    keeper = Memory()
    keys = LOCAL | keys if "local_epochs" not in keys else keys
    loop = loop_of(Note(), keeper=keeper, epochs=2, **keys)
    loop.run()
    assert [step for step, _ in keeper.kept] == commits
    assert int(loop.state.optimizer.iterations) == loop.state.step == commits[-1]
    assert loop.place.examples == 2 * EXAMPLES * (keys.get("local_epochs") or 1)


def test_an_epoch_of_federated_averaging_moves_the_schedule_evenly() -> None:
    done = []
    loop = loop_of(Note(), **FEDERATED)
    loop.schedule.move_to = lambda before, after: done.append((before, after))
    loop.run()
    np.testing.assert_allclose([one for one, _ in done], np.arange(15) / 15, atol=1 / 72)
    assert done[-1][1] == 1.0


@pytest.mark.parametrize(
    ("near", "stopped_at"),
    [
        ([False, True], 4),  # heard at 2, read at 3: the next round's end
        ([False, False], 3),  # which is too far away
        ([True], 6),  # a commit point is near: the epoch's end
    ],
)
def test_a_run_that_is_asked_to_stop_ends_with_a_round(near, stopped_at, monkeypatch) -> None:
    answers = iter(near)
    monkeypatch.setattr(Commits, "is_near", lambda *_: next(answers))
    stop, keeper = Stop(), Memory()
    loop = loop_of(Note(), callbacks=[Asked(stop, 0)], keeper=keeper, stop=stop, **LOCAL)
    loop.run()
    assert keeper.kept == [(stopped_at, True)] and next(answers, None) is None


def test_rounds_that_stay_bad_end_the_run() -> None:
    told = []
    note = Note()
    note.skipped = lambda step, text: told.append(text)
    loop = loop_of(note, **LOCAL, epochs=3, stop_after_bad_steps=100)
    kernel = loop.classifier.trainable_variables[0]
    kernel.assign(np.full(kernel.shape, np.nan))
    loop._health._most = 3
    with pytest.raises(Exception, match="3 steps in a row had numbers"):
        loop.run()
    assert loop.state.step == 7  # the rounds that end with steps 2, 4 and 6


@pytest.mark.parametrize(("momentum", "warns"), [(0.5, True), (0.0, False)])
def test_an_outer_momentum_over_few_rounds_is_warned_of(momentum, warns, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        loop_of(Note(), **LOCAL, outer_momentum=momentum).run()
    assert ("this run has 3 rounds" in caplog.text) == warns


def test_fit_without_commit_points_is_refused() -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    sgd, sync = keras.optimizers.SGD(0.1), Sync(every_steps=2)
    optimizer = DistributedOptimizer(sgd, world=World(), strategy="local", sync=sync)
    model.compile(optimizer, "mse", jit_compile=False)
    with pytest.raises(RuntimeError, match="give fit.. the callback app.distributed.CommitPoints"):
        model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
