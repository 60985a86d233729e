"""EveryStep: every gradient is exchanged, and every exchange is followed by an update."""

from collections.abc import Callable, Sequence
from typing import Any

from app.distributed.options import Sync
from app.distributed.strategies.strategy import Parts


class EveryStep:
    """N workers take one worker's step, each time."""

    is_equal_after_steps = True

    def __init__(self, parts: Parts, sync: Sync):
        self.parts = parts

    def build(self, variables: Sequence[Any], add_variable: Callable[..., Any]) -> None:
        """There is nothing to keep."""

    def apply(
        self, gradients: Sequence[Any], variables: Sequence[Any], weight: Any, total: Any
    ) -> None:
        """See `Strategy`."""
        reduced, applies = self.parts.mean(gradients, variables, weight, total)
        self.parts.update(reduced, variables, applies)

    def are_equal(self) -> bool:
        """See `Strategy`."""
        return True

    def settle(self) -> None:
        """Nothing is ever pending."""

    def abandon(self) -> None:
        """Nothing is ever under way."""
