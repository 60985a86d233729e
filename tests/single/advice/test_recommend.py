"""Which ways are tried, and which is recommended."""

import math
import random

import pytest

from app.advice.accuracy import SEEN, cost_of, inexact, is_exact
from app.advice.predict import Prediction
from app.advice.recommend import Tried, recommend, to_try
from app.distributed.reducers import COMPRESSIONS
from app.distributed.strategies import STRATEGIES


def way(compression: str, sync: str, step_s: float, refused: str = "") -> Prediction:
    return Prediction(compression, sync, 1, step_s, 1.0, refused=refused)


def tried(*ways: tuple[str, str, float]) -> list[Tried]:
    return [Tried(way(*one), one[2]) for one in ways]


def chosen(*ways: tuple[str, str, float], optimizer: str = "sgd") -> tuple[str, str]:
    best, _ = recommend(tried(*ways), optimizer)
    return best.prediction.compression, best.prediction.sync


def test_everything_is_exact_or_has_a_number() -> None:
    assert all(is_exact(name) or name in SEEN for name in [*COMPRESSIONS, *STRATEGIES])


def test_what_changes_the_update_must_make_steps_a_good_deal_faster() -> None:
    base = ("none", "every_step", 1.0)
    assert chosen(base, ("int8", "every_step", 0.9)) == ("none", "every_step")
    assert chosen(base, ("int8", "every_step", 0.8)) == ("int8", "every_step")


def test_an_exact_way_needs_no_margin() -> None:
    ways = [("none", "every_step", 1.0), ("none", "hierarchical", 0.99)]
    assert chosen(*ways) == ("none", "hierarchical")


def test_two_changes_must_beat_one_by_the_same_margin() -> None:
    one, base = ("int8", "every_step", 0.5), ("none", "every_step", 1.0)
    assert chosen(base, one, ("int8", "local", 0.45)) == ("int8", "every_step")
    assert chosen(base, one, ("int8", "local", 0.40)) == ("int8", "local")


@pytest.mark.parametrize("seed", range(40))
def test_the_choice_is_never_far_from_the_fastest(seed: int) -> None:
    rng = random.Random(seed)
    ways = [(name, sync, rng.uniform(0.5, 1.0)) for name in COMPRESSIONS for sync in STRATEGIES]
    best, reasons = recommend(tried(*ways), "sgd")
    assert best.step_s <= 1.15 * 1.05 * min(step_s for _, _, step_s in ways)
    assert len(reasons) == 3


def test_of_two_alike_the_one_that_loses_less_is_better() -> None:
    base = ("none", "every_step", 1.0)
    alike = [("topk", "every_step", 0.50), ("powersgd", "every_step", 0.51)]
    assert chosen(base, *alike) == ("powersgd", "every_step")
    assert chosen(base, ("topk", "every_step", 0.4), alike[1]) == ("topk", "every_step")


def test_the_optimizer_decides_what_is_lost() -> None:
    assert cost_of("topk", "every_step", "sgd").points == pytest.approx(0.3)
    assert cost_of("topk", "every_step", "adam").points == pytest.approx(1.4)
    assert cost_of("terngrad", "every_step", "adam").points is None
    assert "98.8 against 98.9 with sgd" in cost_of("terngrad", "every_step", "adam").text
    assert cost_of("none", "hierarchical", "lamb").points == 0
    assert cost_of("topk", "overlapped", "sgd").points == pytest.approx(0.3 + 0.9)
    assert inexact("topk", "overlapped") == ["topk", "overlapped"]
    assert inexact("none", "hierarchical", 1) == []
    in_rounds = cost_of("none", "hierarchical", "sgd", 8)
    assert inexact("none", "hierarchical", 8) == ["local"]
    assert in_rounds == cost_of("none", "local", "sgd", 8) and in_rounds.points is not None


def test_the_baseline_is_tried_first_and_then_the_best_of_each_level() -> None:
    ways = [
        way("powersgd", "local", 0.1),
        way("int8", "local", 0.2),
        way("int8", "every_step", 0.5),
        way("none", "local", 0.4),
        way("none", "every_step", 1.0),
        way("none", "hierarchical", math.inf, refused="one host"),
    ]
    found = [(one.compression, one.sync) for one in to_try(ways, 4)]
    assert found == [
        ("none", "every_step"),
        ("none", "local"),
        ("int8", "every_step"),
        ("powersgd", "local"),
    ]
    assert len(to_try(ways, 30)) == 5
