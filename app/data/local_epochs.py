"""LocalEpochs: which examples a rank trains on in a round of federated averaging. Pure NumPy."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from app.data.order import Order, Share


@dataclasses.dataclass(frozen=True)
class LocalEpochs:
    """A round, for every rank: some passes of each over the examples that it owns.

    In each pass a rank takes every example of its own once, in batches of its own, of which the
    last may be short. Ranks with fewer examples are done earlier, and get empty shares until the
    others are. The order of a pass is held as a whole, 8 bytes an example.

    Args:
        orders: the order of each pass, of (examples,).
        owners: the rank that each example goes to, int (examples,).
        batch_size: examples of one rank in one step.
        world_size: how many ranks there are.
    """

    orders: Sequence[Order]
    owners: np.ndarray
    batch_size: int
    world_size: int

    @property
    def steps(self) -> int:
        """Steps of the round, the same for every rank."""
        return len(self.orders) * self._steps_of_pass

    @property
    def _steps_of_pass(self) -> int:
        return -(-int(np.bincount(self.owners).max()) // self.batch_size)

    def shares(self, rank: int) -> Iterator[Share]:
        """What `rank` does, step by step; positions count on from pass to pass."""
        for number, order in enumerate(self.orders):
            examples = order[np.arange(len(order))]
            owners = self.owners[examples]
            places = [np.flatnonzero(owners == one) for one in range(self.world_size)]
            for step in range(self._steps_of_pass):
                rows = slice(step * self.batch_size, (step + 1) * self.batch_size)
                parts = [of_rank[rows] for of_rank in places]
                own, everyone = parts[rank], np.concatenate(parts)
                positions = number * len(order) + own
                yield Share(examples[own], positions, examples[everyone], last_pass=True)
