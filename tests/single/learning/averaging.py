"""A run on one rank whose weights are averaged."""

from typing import Any

from app.learning.weight_average import WeightAverage
from app.loop import Loop
from tests.single.test_loop import Watch, loop_of

HORIZON = 30.0


def averaging(show: Any = None, callbacks: Any = (), **keys: Any) -> Loop:
    """A loop whose weights are averaged."""
    keys = {"learning_rate": 0.1, "learning_rate_scaling": "none", **keys}
    loop = loop_of(show or Watch(), callbacks=callbacks, **keys)
    loop.classifier.weight_average = WeightAverage(loop.classifier.network, HORIZON)
    loop.fit_to_world()
    return loop
