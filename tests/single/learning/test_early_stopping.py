"""Early stopping: what counts as better, when a run ends, and that a resumed one ends there too."""

import math

import pytest

from app import commit
from app.learning.early_stopping import EarlyStopping
from app.loop import Loop
from app.state import Kind, state_variables
from tests.single.test_loop import Memory, Watch, loop_of


@pytest.mark.parametrize(
    ("watches", "patience", "scores", "ends", "best"),
    [
        ("loss", 2, [3, 2, 2, 2], 4, (2, 2)),  # as good is not better
        ("loss", 2, [3, 2, 4, 1, 2, 5], 6, (4, 1)),
        ("loss", 1, [1, 2], 2, (1, 1)),
        ("loss", 3, [5, 4, 3, 2], None, (4, 2)),
        ("loss", 2, [math.nan, math.nan], 2, (0, 0)),
        ("loss", 2, [math.nan, 3, math.nan, math.nan], 4, (2, 3)),
        ("accuracy", 2, [0.5, 0.6, 0.6, 0.55], 4, (2, 0.6)),
        ("accuracy", 2, [0.0, 0.0], None, (1, 0)),
        ("accuracy", 1, [0.0, 0.0], 2, (1, 0)),
    ],
)
def test_it_ends_after_so_many_epochs_without_a_better_score(watches, patience, scores, ends, best):
    stopping = EarlyStopping(watches, patience)
    over = []
    for epoch, score in enumerate(scores, 1):
        stopping.see(epoch, score)
        stopping.see(epoch, -score)  # a second time it does not count
        over.append(stopping.is_over)
    assert over == [ends is not None and epoch >= ends for epoch in range(1, len(scores) + 1)]
    assert (stopping.best_epoch, stopping.best, stopping.epoch) == (*best, len(scores))


class Scored:
    """Validations of given losses, by the epoch that has ended; `asked` says for which."""

    def __init__(self, loop: Loop, losses: list[float], monkeypatch: pytest.MonkeyPatch):
        self.asked: list[int] = []
        self._loop, self._losses = loop, losses
        loop.classifier.early_stopping = EarlyStopping("loss", 2)
        loop.commits._validation = loop.splits["train"]
        monkeypatch.setattr(commit, "evaluate", self._evaluate)

    def _evaluate(self, classifier, split, world):
        self.asked.append(self._loop.state.epoch)
        return _Result(self._losses[self._loop.state.epoch - 1])


class _Result:
    def __init__(self, loss: float):
        self.loss, self.accuracy, self.several = loss, 1 - loss, {}


LOSSES = [0.5, 0.4, 0.45, 0.41, 0.3]


def test_a_run_ends_at_the_epoch_when_patience_is_over(monkeypatch) -> None:
    watch, keeper = Watch(), Memory()
    loop = loop_of(watch, keeper=keeper, epochs=9)
    scored = Scored(loop, LOSSES, monkeypatch)
    loop.run()
    assert (loop.state.epoch, loop.state.examples_seen) == (4, 0)
    assert scored.asked == [1, 2, 3, 4] and not loop.commits.was_asked
    assert watch.told == [one for n in range(1, 5) for one in (6 * n, f"epoch {n}")]
    stopping = loop.classifier.early_stopping
    assert (stopping.best_epoch, stopping.best) == (2, 0.4)


@pytest.mark.parametrize("resumed_from", [1, 2, 3, 4])
def test_a_run_resumed_at_the_end_of_an_epoch_ends_where_the_undisturbed_does(
    monkeypatch, resumed_from
) -> None:
    """A checkpoint is from before the validation of its epoch, which is made again."""
    keeper = Memory()
    first = loop_of(Watch(), keeper=keeper, epochs=9)
    Scored(first, LOSSES, monkeypatch)
    first.run()
    again = loop_of(Watch(), epochs=9)
    scored = Scored(again, LOSSES, monkeypatch)
    keeper.states = keeper.states[:resumed_from]
    keeper.restore_latest(again.state)
    again.run()
    assert scored.asked == list(range(resumed_from, 5))
    assert again.state.epoch == 4 and again.classifier.early_stopping.is_over
    assert again.classifier.early_stopping.best_epoch == 2


def test_a_run_resumed_inside_an_epoch_has_seen_all_validations_before(monkeypatch) -> None:
    keeper = Memory()
    first = loop_of(Watch(), keeper=keeper, epochs=9, commit_every_steps=4)
    Scored(first, LOSSES, monkeypatch)
    first.run()
    assert [position["step"] for position, _ in keeper.states][:4] == [4, 6, 8, 12]
    again = loop_of(Watch(), epochs=9)
    scored = Scored(again, LOSSES, monkeypatch)
    keeper.states = keeper.states[:3]  # in the second epoch
    keeper.restore_latest(again.state)
    again.run()
    assert scored.asked == [2, 3, 4]


def test_more_patience_lets_an_ended_run_go_on(monkeypatch) -> None:
    keeper = Memory()
    first = loop_of(Watch(), keeper=keeper, epochs=5)
    Scored(first, LOSSES, monkeypatch)
    first.run()
    again = loop_of(Watch(), epochs=5)
    Scored(again, LOSSES, monkeypatch)
    again.classifier.early_stopping.patience = 3
    keeper.restore_latest(again.state)
    again.run()
    assert again.state.epoch == 5 and again.classifier.early_stopping.best_epoch == 5


def test_what_it_has_seen_is_state_that_all_ranks_share(make_classifier) -> None:
    classifier = make_classifier()
    before = len(state_variables(classifier))
    classifier.early_stopping = EarlyStopping("accuracy", 1)
    added = state_variables(classifier)[before:]
    assert [(e.path, e.kind, e.optional) for e in added] == [
        ("early_stopping/accuracy", Kind.REPLICATED, True)
    ]
