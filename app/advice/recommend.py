"""Which ways to try, and which one to recommend.

Compression pays in few networks (Agarwal et al. 2022, arXiv:2103.00543: in 6 of more than 200
set-ups of data centres), and what changes the update may cost accuracy. So the most exact way is
recommended unless another one makes steps a good deal faster: by `WORTH_IT`, so that what is
recommended is never further than that from the fastest.
"""

import dataclasses
from collections.abc import Sequence

from app.advice.accuracy import Cost, cost_of, inexact
from app.advice.predict import Prediction

WORTH_IT = 1.15  # as fast
ALIKE = 0.05  # nearer than this, the one that loses less accuracy is better
LEVELS = (1, 0, 1, 2)  # which level the tries come from, in turn, behind the baseline


@dataclasses.dataclass(frozen=True)
class Tried:
    """A way to communicate, and its step time: measured, or predicted where it was not tried;
    sent_bytes: what a rank sent per step."""

    prediction: Prediction
    step_s: float
    sent_bytes: float = 0.0

    @property
    def level(self) -> int:
        """How many of compression and sync change the update."""
        return _level(self.prediction)


def to_try(predictions: Sequence[Prediction], most: int) -> list[Prediction]:
    """The baseline (none, every_step) first, then the best predicted of each level in turn."""
    possible = [one for one in predictions if not one.refused]
    baseline = next(o for o in possible if (o.compression, o.sync) == ("none", "every_step"))
    by_level: dict[int, list[Prediction]] = {0: [], 1: [], 2: []}
    for one in sorted(possible, key=lambda one: one.step_s):
        if one is not baseline:
            by_level[_level(one)].append(one)
    chosen, turn = [baseline], 0
    while len(chosen) < most and any(by_level.values()):
        level = by_level[LEVELS[turn % len(LEVELS)]]
        turn += 1
        if level:
            chosen.append(level.pop(0))
    return chosen


def recommend(tried: Sequence[Tried], optimizer: str) -> tuple[Tried, list[str]]:
    """(the way to use, why). There is always one of level 0: the baseline."""
    best = _best([one for one in tried if one.level == 0], optimizer)
    reasons = [f"{best.prediction.label}: the fastest that leaves the update as it is"]
    for level in (1, 2):
        rivals = [one for one in tried if one.level == level]
        if not rivals:
            continue
        rival = _best(rivals, optimizer)
        speedup = best.step_s / min(one.step_s for one in rivals)
        is_worth = speedup > WORTH_IT
        asked = "above" if is_worth else "not above"
        reasons.append(
            f"{rival.prediction.label}: {best.step_s / rival.step_s:.2f}x as fast as "
            f"{best.prediction.label}, {asked} the {WORTH_IT:.2f}x that is asked of what changes "
            f"the update (accuracy: {_cost(rival, optimizer).text})"
        )
        if is_worth:
            best = rival
    return best, reasons


def _level(way: Prediction) -> int:
    return len(inexact(way.compression, way.sync, way.round))


def _cost(one: Tried, optimizer: str) -> Cost:
    way = one.prediction
    return cost_of(way.compression, way.sync, optimizer, way.round)


def _best(rivals: Sequence[Tried], optimizer: str) -> Tried:
    """The fastest; among those about as fast, the one with the least known loss of accuracy."""
    fastest = min(rivals, key=lambda one: one.step_s)
    near = [one for one in rivals if one.step_s <= fastest.step_s * (1 + ALIKE)]

    def lost(one: Tried) -> tuple[float, float]:
        points = _cost(one, optimizer).points
        return (float("inf") if points is None else points, one.step_s)

    return min(near, key=lost)
