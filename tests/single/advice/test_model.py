"""The model of costs against formulas written out, and against limits that it must keep."""

import pytest

from app.advice.model import (
    REDUCE_S_PER_BYTE,
    STEP_SECONDS,
    Cluster,
    Curve,
    Line,
    Step,
    fit_line,
)
from app.distributed.strategies import STRATEGIES

ACROSS, LOCAL = Line(20e-6, 1e-9), Line(2e-6, 1e-11)
SIZES = [1024 * 4**power for power in range(9)]


def test_a_line_is_found_again() -> None:
    line = fit_line(SIZES, [1e-3 + 2e-9 * size for size in SIZES])
    assert line.alpha == pytest.approx(1e-3, rel=1e-6)
    assert line.beta == pytest.approx(2e-9, rel=1e-6)


@pytest.mark.parametrize("slow", range(0, 9, 2))
def test_one_slow_measurement_does_not_move_the_line(slow: int) -> None:
    seconds = [1e-3 + 2e-9 * size for size in SIZES]
    seconds[slow] *= 8
    line = fit_line(SIZES, seconds)
    assert line.alpha == pytest.approx(1e-3, rel=0.05)
    assert line.beta == pytest.approx(2e-9, rel=0.05)


def test_neither_latency_nor_bandwidth_is_negative() -> None:
    falling = fit_line([1e3, 1e4, 1e5], [3e-3, 2e-3, 1e-3])
    assert falling.beta == 0 and falling.alpha > 0
    steep = fit_line([1e6, 2e6, 4e6], [1e-3, 3e-3, 9e-3])
    assert steep.alpha == 0 and steep.beta > 0
    assert fit_line([1e3], [2e-3]) == Line(2e-3, 0.0)


def test_a_curve_goes_through_what_was_measured_and_on_by_its_line() -> None:
    curve = Curve(Line(1.0, 2.0), [1, 100, 10_000], [2.0, 2.0, 200.0])
    assert [curve.at(x) for x in (0, 1, 10, 100, 10_000)] == pytest.approx([2, 2, 2, 2, 200])
    assert curve.at(1000) == pytest.approx(20)
    assert curve.at(20_000) == 200 + 2.0 * 10_000
    assert Curve(Line(1.0, 0.0), [10, 20], [1.0, 3.0]).at(40) == pytest.approx(7.0)
    disturbed = Curve(Line(0.0, 1.0), [1, 10, 100], [5.0, 1.0, 2.0])
    assert disturbed.at(1) == 1.0


def test_a_ring_and_a_tree_are_as_in_the_papers() -> None:
    n, size = 8, 1e6
    ring = Cluster(n, ACROSS, LOCAL, algorithm="ring").seconds("allreduce", size)
    tree = Cluster(n, ACROSS, LOCAL, algorithm="tree").seconds("allreduce", size)
    added = size * REDUCE_S_PER_BYTE
    assert ring == pytest.approx(14 * (20e-6 + size / n * 1e-9) + 7 / 8 * added)
    assert tree == pytest.approx(3 * (20e-6 + size * 1e-9) + 3 * added)


def test_the_faster_algorithm_depends_on_the_size() -> None:
    ring, tree, best = (Cluster(64, ACROSS, LOCAL, 1, name) for name in ("ring", "tree", "best"))
    assert tree.seconds("allreduce", 1e3) < ring.seconds("allreduce", 1e3)
    assert ring.seconds("allreduce", 1e8) < tree.seconds("allreduce", 1e8)
    for size in (1e3, 1e8):
        of_both = [one.seconds("allreduce", size) for one in (ring, tree)]
        assert best.seconds("allreduce", size) == min(of_both)
    assert best.seconds("allmax", 1e3) == best.seconds("allreduce", 1e3)


def test_what_is_gathered_grows_with_the_ranks() -> None:
    seconds = [Cluster(n, ACROSS, LOCAL).seconds("allgather", 1e6) for n in (2, 4, 8)]
    assert seconds == pytest.approx([n * (20e-6 + 1e-3) for n in (1, 3, 7)])


def test_ranks_of_a_host_share_its_link() -> None:
    alone = Cluster(4, ACROSS, LOCAL, per_host=1).seconds("alltoall", 4e6)
    shared = Cluster(4, ACROSS, LOCAL, per_host=2).seconds("alltoall", 4e6)
    assert alone == pytest.approx(3 * (20e-6 + 1e6 * 1e-9))
    assert shared == pytest.approx(1 * (2e-6 + 1e6 * 1e-11) + 2 * (20e-6 + 2e6 * 1e-9))


def test_one_rank_exchanges_nothing() -> None:
    for kind in ("allreduce", "allgather", "alltoall"):
        assert Cluster(1, ACROSS, LOCAL).seconds(kind, 1e6) == 0


def test_hosts_are_told_apart_where_there_are_several_of_several_ranks() -> None:
    assert Cluster(8, ACROSS, LOCAL, per_host=1).by_host() is None
    assert Cluster(8, ACROSS, LOCAL, per_host=8).by_host() is None
    parts = Cluster(32, ACROSS, LOCAL, per_host=4).by_host()
    assert parts is not None
    inside, between = parts
    assert (inside.ranks, between.ranks) == (4, 8)
    assert inside.seconds("allgather", 1e6) == pytest.approx(3 * LOCAL.at(1e6))
    assert between.seconds("allgather", 1e6) == pytest.approx(7 * (20e-6 + 4e6 * 1e-9))


def test_every_strategy_has_a_formula() -> None:
    assert set(STEP_SECONDS) == set(STRATEGIES)


@pytest.mark.parametrize(
    ("sync", "steps", "expected"),
    [
        ("every_step", 1, 10 + 1 + 40),
        ("hierarchical", 1, 10 + 1 + 40),
        ("hierarchical", 8, 10 + 41 / 8),
        ("overlapped", 1, 40),
        ("local", 8, 10 + 41 / 8),
        ("delayed", 8, 10 + 1 / 8),
    ],
)
def test_a_step_is_made_of_its_parts(sync: str, steps: int, expected: float) -> None:
    assert STEP_SECONDS[sync](Step(10, 1, 40, steps, 0.0)) == pytest.approx(expected)


def test_what_overlaps_is_hidden_and_no_more() -> None:
    every_step, delayed = STEP_SECONDS["every_step"], STEP_SECONDS["delayed"]
    assert every_step(Step(10, 1, 40, 1, 0.5)) == 10 + 1 + 35
    assert every_step(Step(10, 1, 2, 1, 0.5)) == 11
    assert delayed(Step(10, 0, 120, 8, 0.0)) == 15


def test_what_shares_the_cores_is_not_hidden() -> None:
    assert STEP_SECONDS["overlapped"](Step(10, 1, 8, 1, 0.0, busy=5)) == 16
    assert STEP_SECONDS["delayed"](Step(10, 0, 40, 8, 0.0, busy=16)) == 12
