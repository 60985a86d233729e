"""Which ranks hold the others up, told from tables of times."""

import numpy as np
import pytest

from app.monitor.stragglers import BLOCKS, Stragglers, described
from app.monitor.timing import RankTimes

HOSTS = ["gpu0", "gpu1", "gpu2", "gpu3"]


def times(extra_ms: dict[int, dict[str, float]], ranks: int = 4) -> RankTimes:
    """Steps of 30 ms; a rank with more work of some kind, and the others waiting for it."""
    parts = {"input": 2.0, "compute": 14.0, "exchange": 10.0, "other": 4.0}
    table = {name: np.full(ranks, value) for name, value in parts.items()}
    for rank, extra in extra_ms.items():
        for name, value in extra.items():
            table[name][rank] += value
    work = table["input"] + table["compute"] + table["other"]
    table["exchange"] += work.max() - work
    return RankTimes(**{name: values / 1e3 for name, values in table.items()})


def see(stragglers: Stragglers, seen: RankTimes, reports: int, steps: int = 20) -> list[str]:
    return [text for _ in range(reports) for text in stragglers.see(seen, steps)]


@pytest.mark.parametrize(
    ("cause", "called"),
    [("input", "input"), ("compute", "compute"), ("other", "callbacks or reports")],
)
def test_a_slow_rank_is_named_once_with_its_host_and_cause(cause: str, called: str) -> None:
    stragglers = Stragglers(HOSTS)
    slow = times({2: {cause: 20.0}})
    assert see(stragglers, slow, BLOCKS - 1) == []
    (text,) = see(stragglers, slow, 10)
    assert text.startswith("rank 2 on gpu2 holds the others up: its work takes 2.0 times as long")
    assert "40 ms per step" in text and called in text
    (found,) = stragglers.summary()
    steps = (BLOCKS + 9) * 20
    assert found == {"rank": 2, "host": "gpu2", "cause": cause, "factor": 2.0, "steps": steps}
    assert described([found]) == f"rank 2 on gpu2 x2.0 for {steps} steps ({called})"


def test_its_end_is_said_once_too_and_only_slow_steps_are_counted() -> None:
    stragglers = Stragglers(HOSTS)
    see(stragglers, times({1: {"input": 30.0}}), 6)
    assert see(stragglers, times({}), BLOCKS - 1) == []
    assert see(stragglers, times({1: {"input": 30.0}}), 1) == []  # not over yet
    said = see(stragglers, times({}), 3 * BLOCKS)
    assert said == ["rank 1 on gpu1 no longer holds the others up"]
    assert stragglers.summary()[0]["steps"] == 7 * 20


def test_a_pause_however_long_makes_no_slow_rank() -> None:
    stragglers = Stragglers(HOSTS)
    for _ in range(10):
        assert see(stragglers, times({3: {"compute": 5000.0}}), BLOCKS - 1) == []
        assert see(stragglers, times({}), 1) == []
    assert stragglers.summary() == []


def test_a_long_exchange_names_nobody_since_all_wait_alike() -> None:
    stragglers = Stragglers(HOSTS)
    assert see(stragglers, times({0: {"exchange": 500.0}, 1: {"exchange": 490.0}}), 20) == []


def test_half_as_much_again_is_the_limit_and_a_few_ms_are_nothing() -> None:
    assert see(Stragglers(HOSTS), times({0: {"compute": 9.0}}), 20) == []
    assert len(see(Stragglers(HOSTS), times({0: {"compute": 11.0}}), 20)) == 1
    tiny = RankTimes(*(np.array([0.003, 0.001]) for _ in range(1)), *[np.zeros(2)] * 3)
    assert see(Stragglers(HOSTS[:2]), tiny, 20) == []


def test_of_two_ranks_the_slower_is_named_and_of_four_both_slow_ones() -> None:
    (text,) = see(Stragglers(HOSTS[:2]), times({1: {"compute": 30.0}}, ranks=2), 20)
    assert text.startswith("rank 1 on gpu1") and "2.5 times" in text
    slow = {rank: {"compute": 30.0} for rank in (0, 2)}
    said = see(Stragglers(HOSTS), times(slow), 20)
    assert [text.partition(" holds")[0] for text in said] == ["rank 0 on gpu0", "rank 2 on gpu2"]


def test_reports_of_single_steps_need_more_of_them() -> None:
    stragglers, slow = Stragglers(HOSTS), times({0: {"input": 50.0}})
    assert see(stragglers, slow, 99, steps=1) == []
    assert len(see(stragglers, slow, 1, steps=1)) == 1


def test_short_reports_at_the_beginning_of_each_epoch_hide_no_slow_rank() -> None:
    stragglers, said = Stragglers(HOSTS), []
    for _ in range(6):  # before the first step of an epoch there was no callback
        said += see(stragglers, times({}), 1, steps=1)
        said += see(stragglers, times({3: {"other": 30.0}}), 2, steps=15)
    assert len(said) == 1 and said[0].startswith("rank 3 on gpu3")


def test_reports_without_a_timed_step_and_a_world_of_one_say_nothing() -> None:
    stragglers = Stragglers(HOSTS)
    nothing = RankTimes(*[np.array([0.0, 0.1, 0.1, 0.1])] * 4)
    assert see(stragglers, nothing, 20) == []
    assert see(Stragglers(["here"]), RankTimes(*[np.array([1.0])] * 4), 20) == []
    assert stragglers.summary() == []
