"""The loop in a world that changes: what sends it into another one, and what it does there once."""

from collections.abc import Callable
from typing import Any

import keras
import pytest
import tensorflow as tf

from app.elastic.member import Landing
from app.loop import Loop
from app.monitor.goodput import Goodput
from app.monitor.progress import Progress, Show
from app.stop import Stop, Stopped
from tests.single.test_loop import Memory, Watch, loop_of

LOST = tf.errors.UnknownError(None, None, "HorovodAllreduce has failed: connection closed")


class Crossings:
    """Worlds of this one rank, one after the other. `made`: (planned, step, pending) of each;
    `lands`: how it comes into the next."""

    def __init__(self, loop: Loop, monkeypatch: pytest.MonkeyPatch):
        self.made: list[tuple[bool, int, Progress | None]] = []
        self.lands = Landing(went_back=False, retraces=False, pending=None, text="goes on")
        self.keeps_pending = True
        self._loop = loop
        loop.member.recovers = True
        monkeypatch.setattr(loop.member, "cross", self._cross)

    def _cross(self, planned: bool, pending: Progress | None, is_new: bool = False) -> Landing:
        self.made.append((planned, self._loop.state.step, pending))
        self._loop.member._door.newcomers = 0
        return self.lands._replace(pending=pending if self.keeps_pending else None)


class Fails(keras.callbacks.Callback):
    """Raises an error once: at a batch, or when an epoch ends."""

    def __init__(self, error: Exception, batch: int | None = None):
        super().__init__()
        self.error: Exception | None = error
        self.batch = batch
        self.batches: list[int] = []
        self.epochs: list[int] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.batches.append(batch)
        if batch == self.batch:
            self._fail()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(epoch)
        if self.batch is None:
            self._fail()

    def _fail(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error


@pytest.fixture
def crossing(monkeypatch) -> Callable[..., tuple[Loop, Crossings]]:
    """A loop, and the worlds that it comes into."""

    def make(show: Show | None = None, **options: Any) -> tuple[Loop, Crossings]:
        loop = loop_of(show or Watch(), **options)
        monkeypatch.setattr(loop.member._door, "newcomers", 0)
        return loop, Crossings(loop, monkeypatch)

    return make


def test_a_rank_that_loses_another_goes_on_from_where_it_is(crossing) -> None:
    fails = Fails(LOST, batch=3)
    loop, crossings = crossing(callbacks=[fails], epochs=2)
    loop.run()
    assert crossings.made == [(False, 3, None)]
    assert fails.batches == [0, 1, 2, 3, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert fails.epochs == [0, 1] and loop.state.step == 12


@pytest.mark.parametrize("error", [ValueError("Horovod"), OSError("no space"), Stopped("asked to")])
def test_any_other_error_ends_the_run(crossing, error) -> None:
    loop, crossings = crossing(callbacks=[Fails(error, batch=3)])
    with pytest.raises(type(error)):
        loop.run()
    assert not crossings.made


def test_without_a_supervisor_a_lost_rank_ends_the_run(monkeypatch) -> None:
    with pytest.raises(tf.errors.UnknownError):
        loop_of(Watch(), callbacks=[Fails(LOST, batch=3)]).run()


@pytest.mark.parametrize("agreement", [1, 2])  # before it is told of, after
def test_the_end_of_an_epoch_is_made_again_and_told_once(crossing, monkeypatch, agreement) -> None:
    watch, keeper, told = Watch(), Memory(), Fails(LOST, batch=-1)
    loop, crossings = crossing(watch, keeper=keeper, callbacks=[told], epochs=2)
    agree, calls = loop.commits._agree_to_stop, []

    def fails_once() -> None:
        calls.append(loop.state.epoch)
        if len(calls) == agreement:
            raise LOST
        agree()

    monkeypatch.setattr(loop.commits, "_agree_to_stop", fails_once)
    loop.run()
    ((planned, step, pending),) = crossings.made
    assert (planned, step) == (False, 6) and pending is not None and pending.epoch == 1
    assert told.epochs == [0, 1]
    assert [one for one in watch.told if isinstance(one, str)] == ["epoch 1", "epoch 2"]
    assert {step for step, _ in keeper.kept} == {6, 12}


def test_a_callback_that_loses_a_rank_at_the_end_of_an_epoch_is_not_told_again(crossing) -> None:
    told = Fails(LOST)
    loop, crossings = crossing(callbacks=[told], epochs=2)
    loop.run()
    assert told.epochs == [0, 1] and len(crossings.made) == 1


def test_an_end_that_the_others_have_seen_to_is_not_made_again(crossing) -> None:
    keeper = Memory()
    loop, crossings = crossing(keeper=keeper, callbacks=[Fails(LOST)], epochs=2)
    crossings.keeps_pending = False
    loop.run()
    assert [step for step, _ in keeper.kept] == [6, 12]


def test_newcomers_are_let_in_at_the_next_commit_point(crossing) -> None:
    loop, crossings = crossing(commit_every_steps=2)
    come = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: _come(loop, batch == 2)
    )
    add(loop, come)
    loop.run()
    assert crossings.made == [(True, 4, None)] and loop.state.step == 6


def test_newcomers_are_not_let_in_when_training_is_over(crossing) -> None:
    loop, crossings = crossing(commit_every_steps=2)
    come = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: _come(loop, batch == 5)
    )
    add(loop, come)
    loop.run()
    assert not crossings.made


@pytest.mark.parametrize("leavers", [[0], [1]])
def test_who_is_asked_to_leave_does_so_and_others_go_on(crossing, monkeypatch, leavers) -> None:
    loop, crossings = crossing(commit_every_steps=2)
    left = []

    def agree() -> None:
        loop.commits.ends, loop.commits.has_newcomers = False, False
        loop.commits.leavers = leavers if loop.state.step == 2 else []

    monkeypatch.setattr(loop.commits, "_agree_to_stop", agree)
    monkeypatch.setattr(loop.member, "leaves", lambda: left.append(loop.state.step))
    if leavers == [0]:
        with pytest.raises(Stopped, match="this rank has left the others at step 2"):
            loop.run()
        assert left == [2] and not crossings.made
        assert loop.stop._reached.is_set()  # there is time to write what is kept
    else:
        loop.run()
        assert not left and crossings.made == [(True, 2, None)] and loop.state.step == 6


def test_a_world_that_has_changed_traces_anew_only_if_it_must(crossing) -> None:
    for retraces in (False, True):
        loop, crossings = crossing(callbacks=[Fails(LOST, batch=3)])
        crossings.lands = crossings.lands._replace(retraces=retraces)
        traces = []
        note = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, loop=loop, traces=traces: traces.append(
                loop._traced[True]
            )
        )
        add(loop, note)
        loop.run()
        assert len(set(map(id, traces))) == 1 + retraces


def test_who_goes_back_counts_the_steps_since_as_lost(crossing, monkeypatch) -> None:
    loop, crossings = crossing(callbacks=[Fails(LOST, batch=3)])
    crossings.lands = crossings.lands._replace(went_back=True)
    order = []
    monkeypatch.setattr(Goodput, "lost_since", lambda self, step: order.append(("lost", step)))
    loop._on_landing = lambda went_back, steps: order.append(("lands", went_back, steps))
    loop.run()
    # A new chief takes the ledger over first.
    assert order == [("lands", True, 6), ("lost", 3)]


def test_shows_and_the_keeper_are_those_of_the_new_world(crossing) -> None:
    watch, keeper = Watch(), Memory()
    watch.resized = lambda step, text: watch.told.append((step, text))
    loop, _ = crossing(watch, callbacks=[Fails(LOST, batch=3)])
    loop._on_landing = lambda went_back, steps: keeper
    loop.run()
    assert watch.told == [(3, "goes on"), 6, "epoch 1"]
    assert keeper.kept == [(6, True)]


@pytest.mark.parametrize(
    ("rows", "answer", "expected"),
    [
        # Of each rank: asked to stop, its callbacks want to, newcomers that it knows of.
        ([(False, False, 0)] * 3, None, (False, False, [], False)),
        ([(True, False, 0)] * 3, None, (True, True, [], False)),
        ([(False, True, 0), (False, False, 0)], None, (True, False, [], False)),
        ([(False, False, 2), (False, False, 0)], None, (False, False, [], True)),
        ([(False, False, 0), (False, False, 2)], None, (False, False, [], False)),
        ([(False, False, 0), (True, False, 0)], (False, [1]), (False, False, [1], False)),
        ([(False, False, 0), (True, False, 0)], (True, []), (True, True, [], False)),
        ([(True, False, 1), (False, False, 0)], (False, [0]), (False, False, [0], True)),
    ],
)
def test_what_ranks_agree_on_at_a_commit_point(crossing, monkeypatch, rows, answer, expected):
    loop, _ = crossing()
    commits, asked = loop.commits, []
    monkeypatch.setattr(loop.world, "gather", lambda own: rows)
    monkeypatch.setattr(loop.world, "size", len(rows))
    monkeypatch.setattr(loop.member, "who_leaves", lambda ranks: asked.append(ranks) or answer)
    commits._agree_to_stop()
    agreed = (commits.ends, commits.was_asked, commits.leavers, commits.has_newcomers)
    assert agreed == expected
    assert asked == ([[r for r, row in enumerate(rows) if row[0]]] if answer else [])


def test_a_wish_to_stop_survives_a_change_of_worlds(crossing) -> None:
    stop, keeper = Stop(), Memory()
    loop, crossings = crossing(stop=stop, keeper=keeper, callbacks=[Fails(LOST, batch=3)], epochs=3)
    asks = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: setattr(stop, "signal", 15) if batch == 2 else None
    )
    add(loop, asks)
    loop.run()
    assert loop.commits.was_asked and loop.state.epoch <= 1 and len(crossings.made) == 1


def add(loop: Loop, callback: keras.callbacks.Callback) -> None:
    loop.callbacks.callbacks.append(callback)
    loop.callbacks.set_model(loop.classifier)


def _come(loop: Loop, now: bool) -> None:
    if now:
        loop.member._door.newcomers = 1
