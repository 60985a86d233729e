"""How ranks get from one world into the next: what they go on with, and what each brings."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from app.distributed.guard import ReplicasDiverged
from app.elastic.door import Door
from app.elastic.member import Member
from app.errors import UserError
from app.monitor.progress import Progress
from app.recipe import load
from app.state import Kind
from tests.single.elastic.meeting import Rank, cross


@pytest.fixture
def make(make_classifier) -> Callable[..., Rank]:
    """A rank whose variables are all `value`. `whole`: they are whole after every step."""

    def of(rank: int, size: int, value: float, whole: bool = True, **position: int) -> Rank:
        one = Rank(make_classifier(batch_norm=not whole), rank, size, **position)
        one.has(value)
        return one

    return of


def ended(epoch: int) -> Progress:
    return Progress(epoch, 6, {"loss": 1.0}, 1.0, 0.1, 10, 0, None)


def test_all_go_on_from_the_highest_step_that_any_has_finished(make) -> None:
    ranks = [make(rank, 4, value=rank + 1, step=step) for rank, step in ((0, 5), (2, 6), (3, 5))]
    for one in ranks:
        one.member.commits([], None)  # of which nothing is needed
    landings = cross(ranks)
    assert [one.values for one in ranks] == [{3.0}] * 3
    assert [one.state.step for one in ranks] == [6, 6, 6]
    assert not any(landing.went_back or landing.retraces for landing in landings)
    assert landings[1].text == "goes on as rank 1 of 3, which was rank 2 of 4, from step 6"


def test_a_rank_says_what_it_waits_for_and_that_it_is_a_member_again(make) -> None:
    ranks = [make(rank, 3, value=1, step=5) for rank in (0, 1)]
    cross(ranks)
    waits, member = ranks[1].door.said
    assert waits["waits"]["step"] == 5 and member["member"]["world"] == 1
    assert waits["waits"]["code"] == member["member"]["code"] and member["member"]["recovers"]


def test_each_rank_of_the_new_world_has_random_numbers_of_its_own(make) -> None:
    ranks = [make(rank, 3, value=1, step=5) for rank in (1, 2)]
    cross(ranks)
    seeds = [
        [e.variable.numpy().tolist() for e in one.state.entries if e.kind is Kind.DERIVED]
        for one in ranks
    ]
    assert seeds[0] and seeds[0] != seeds[1]


def test_all_go_back_to_the_newest_commit_point_where_a_failed_step_leaves_traces(make) -> None:
    ranks = [make(rank, 3, whole=False, value=rank, step=4, epoch=1) for rank in range(2)]
    for one in ranks:
        one.member.commits([], None)
    ranks[1].has(7)
    ranks[1].state.step = 8
    ranks[1].member.commits([np.float32(v) for v in (10, 20, 30, 40)], None)
    for one in ranks:  # steps later
        one.has(99)
        one.counts(1, 1, 1, 1)
        one.state.step = 9
    landings = cross(ranks)
    assert [one.values for one in ranks] == [{7.0}] * 2
    assert [one.state.step for one in ranks] == [8, 8]
    assert all(landing.went_back for landing in landings)
    assert not any(landing.retraces for landing in landings)  # the optimizer is plain
    assert [one.metrics for one in ranks] == [[10, 20, 30, 40], [0, 0, 0, 0]]


def test_a_rank_that_is_lost_before_the_first_commit_point_sends_all_to_the_beginning(make) -> None:
    ranks = [make(rank, 3, whole=False, value=5, step=0) for rank in range(2)]
    for one in ranks:
        one.member.begins()
        one.has(6)
        one.state.step = 1
    assert all(landing.went_back for landing in cross(ranks))
    assert [(one.values, one.state.step) for one in ranks] == [({5.0}, 0)] * 2


def test_a_second_failure_goes_back_to_where_the_first_has(make) -> None:
    ranks = [make(rank, 4, whole=False, value=5, step=4) for rank in range(3)]
    for one in ranks:
        one.member.commits([np.float32(v) for v in (1, 2, 3, 4)], ended(1))
    cross(ranks)
    for one in ranks:
        one.has(6)
    landings = cross(ranks[1:])
    assert [one.values for one in ranks[1:]] == [{5.0}] * 2
    assert [one.metrics for one in ranks[1:]] == [[1, 2, 3, 4], [0, 0, 0, 0]]
    assert all(landing.pending == ended(1) for landing in landings)


@pytest.mark.parametrize("whole", [True, False])
def test_at_a_planned_change_nobody_goes_back(make, whole: bool) -> None:
    ranks = [make(rank, 2, whole=whole, value=5, step=4) for rank in range(2)]
    for one in ranks:
        one.member.commits([np.float32(v) for v in (1, 2, 3, 4)], None)
    landings = cross(ranks, planned=True)
    assert not any(landing.went_back for landing in landings)
    assert [(one.values, one.state.step) for one in ranks] == [({5.0}, 4)] * 2
    assert [one.metrics for one in ranks] == [[1, 2, 3, 4], [0, 0, 0, 0]]


@pytest.mark.parametrize("planned", [True, False])
def test_newcomers_get_everything_and_count_nothing(make, planned: bool) -> None:
    ranks = [make(rank, 2, value=5, step=9, epoch=2, examples_seen=6, halvings=1) for rank in (0,)]
    newcomer = make(0, 1, value=0)
    newcomer.counts(9, 9, 9, 9)  # of its warm-up
    landings = cross(ranks, planned, newcomers=[newcomer])
    assert newcomer.values == {5.0} and newcomer.state.position == ranks[0].state.position
    assert newcomer.metrics == [0, 0, 0, 0]
    assert newcomer.door.said[0]["waits"]["step"] == -1
    assert landings[1].text == "goes on as rank 1 of 2, new, from step 9"
    assert not any(landing.retraces for landing in landings)


def test_all_trace_anew_if_what_learns_is_not_the_same_on_all(make) -> None:
    ranks = [make(0, 1, value=5, step=9, unfrozen_at=4)]
    newcomer = make(0, 1, value=0, step=0)
    for one in (*ranks, newcomer):
        one.state.optimizer._kinds._agreed[(1,)] = ["dense"]
    landings = cross(ranks, planned=True, newcomers=[newcomer])
    assert all(landing.retraces for landing in landings)
    assert not any(one.state.optimizer._kinds._agreed for one in (*ranks, newcomer))
    assert newcomer.state.unfrozen_at == 4


def test_what_compression_owes_is_shared_among_the_ranks_that_there_are(make) -> None:
    ranks = [make(rank, 3, value=0, step=4) for rank in range(2)]
    newcomer = make(0, 1, value=0)
    owed = [
        one.state.optimizer.add_variable((2,), name="owed", kind=Kind.SUMMED)
        for one in (*ranks, newcomer)
    ]
    for variable, one in zip(owed, ranks, strict=False):
        variable.assign([2.0, 4.0])
        one.member.commits([], None)
        variable.assign([9.0, 9.0])
    cross(ranks)
    assert [v.numpy().tolist() for v in owed[:2]] == [[3.0, 6.0]] * 2  # 3 x 2 = 2 x 3
    cross(ranks, planned=True, newcomers=[newcomer])
    assert [v.numpy().tolist() for v in owed] == [[2.0, 4.0]] * 3


def test_what_a_failure_left_in_mid_step_is_dropped_but_a_ranks_own_wish(make) -> None:
    one = make(0, 2, value=1, step=4)
    local = one.state.optimizer.add_variable((2,), name="sum", kind=Kind.LOCAL)
    one.member.commits([], None)
    local.assign([1.0, 2.0])
    signals = one.state.optimizer.signals
    signals.ask_to_stop()
    signals._bad.assign([1.0, 0.0])
    signals._heard.assign([1.0, 1.0, 1.0])
    cross([one])
    assert not local.numpy().any() and not signals.heard().numpy().any()
    assert signals.tell(tf.constant(1.0)).numpy().tolist() == [1.0, 0.0, 0.0, 0.0]


def test_an_end_of_an_epoch_that_is_pending_anywhere_is_pending_everywhere(make) -> None:
    ranks = [make(rank, 3, value=1, step=6, epoch=1) for rank in range(2)]
    landings = cross(ranks, pending=[None, ended(1)])
    assert [landing.pending for landing in landings] == [ended(1)] * 2


def test_an_end_that_lies_behind_is_not_pending(make) -> None:
    ranks = [make(0, 3, value=1, step=6, epoch=1), make(1, 3, value=1, step=7, epoch=1)]
    landings = cross(ranks, pending=[ended(1), None])
    assert [landing.pending for landing in landings] == [None, None]


def test_a_rank_whose_epoch_has_ended_is_ahead_of_one_at_the_same_step(make) -> None:
    ranks = [
        make(0, 3, value=1, step=6, epoch=0, examples_seen=24),
        make(1, 3, value=1, step=6, epoch=1, examples_seen=0),
    ]
    landings = cross(ranks, pending=[None, ended(1)])
    assert [(one.state.epoch, one.state.examples_seen) for one in ranks] == [(1, 0)] * 2
    assert [landing.pending for landing in landings] == [ended(1)] * 2


def test_an_epochs_end_is_not_pending_any_more_once_it_is_over(make) -> None:
    one = make(0, 2, whole=False, value=1, step=6, epoch=1)
    one.member.commits([], ended(1))
    one.member.has_ended_epoch()
    assert cross([one])[0].pending is None


@pytest.mark.parametrize(
    ("is_ended", "expected"), [(False, [11, 22, 33, 44]), (True, [1, 2, 3, 4])]
)
def test_a_new_chief_has_the_metrics_of_the_epoch_so_far(make, is_ended, expected) -> None:
    ranks = [make(rank, 3, value=1, step=4, epoch=1) for rank in (1, 2)]
    for one in ranks:
        one.member.commits(
            [np.float32(v) for v in (10, 20, 30, 40)], ended(1) if is_ended else None
        )
        one.counts(1, 2, 3, 4)  # since then
    cross(ranks)
    assert [one.metrics for one in ranks] == [expected, [1, 2, 3, 4]]


def test_a_chief_that_stays_keeps_its_metrics(make) -> None:
    ranks = [make(rank, 3, value=1, step=4) for rank in (0, 2)]
    for one in ranks:
        one.member.commits([np.float32(v) for v in (10, 20, 30, 40)], None)
        one.counts(1, 2, 3, 4)
    cross(ranks)
    assert [one.metrics for one in ranks] == [[1, 2, 3, 4]] * 2


LOST = "Graph execution error:\n\nDetected at node HorovodGroupedAllreduce: connection closed"


@pytest.mark.parametrize(
    ("error", "survives"),
    [
        (tf.errors.UnknownError(None, None, LOST), True),
        (RuntimeError("the exchange of a round failed: HorovodAllreduce has failed"), True),
        (type("HorovodInternalError", (RuntimeError,), {})("Connection reset"), True),
        (tf.errors.UnknownError(None, None, "no such device"), False),
        (tf.errors.FailedPreconditionError(None, None, "Horovod: mismatched shapes"), False),
        (FileNotFoundError("/home/jo/horovod/data"), False),
        (UserError("Horovod makes process sets only if told before it starts"), False),
        (ReplicasDiverged("/horovod/weights differ"), False),
        (ZeroDivisionError("division by zero"), False),
    ],
)
def test_only_an_exchange_that_failed_is_survived(make, error, survives: bool) -> None:
    assert make(0, 2, value=1).member.survives(error) == survives


def test_who_has_no_supervisor_neither_recovers_nor_lets_ranks_leave_alone(make) -> None:
    one = make(0, 2, value=1)
    member = Member(load(None, {}), one.world, one.state, Door())
    assert not member.recovers and member.newcomers == 0
    assert not member.survives(tf.errors.UnknownError(None, None, LOST))
    assert member.who_leaves([1]) == (True, [])


@pytest.mark.parametrize("why", ["gpu", "by hosts", "mpi"])
def test_some_runs_are_started_again_instead(make, monkeypatch, why: str) -> None:
    one = make(0, 2, value=1)
    keys = {"sync": "hierarchical", "sync_every_steps": 2} if why == "by hosts" else {}
    if why == "gpu":
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU:0"])
    if why == "mpi":
        monkeypatch.setattr(type(one.world), "may_change", False)
    assert not Member(load(None, keys), one.world, one.state, one.door).recovers


def test_the_chief_alone_asks_who_leaves(make, monkeypatch) -> None:
    asked = []
    one = make(0, 1, value=1)
    cross([one])
    monkeypatch.setattr(one.door, "ask", lambda ranks: asked.append(ranks) or (False, [1]))
    assert one.member.who_leaves([1]) == (False, [1]) and asked == [[1]]


def test_ranks_of_other_code_or_settings_are_told_apart(make) -> None:
    one = make(0, 2, value=1)
    same, other = (
        Member(load(None, keys), one.world, one.state, one.door)
        for keys in ({}, {"learning_rate": 0.5})
    )
    codes = []
    for member in (one.member, same, other):
        member.begins()
        codes.append(one.door.said[-1]["member"]["code"])
    assert codes[0] == codes[1] != codes[2]
