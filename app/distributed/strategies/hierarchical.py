"""Hierarchical: every gradient is exchanged inside a host first, and then between hosts."""

import dataclasses

from app.distributed.options import Sync
from app.distributed.reducers.by_host import ByHost
from app.distributed.strategies.every_step import EveryStep
from app.distributed.strategies.strategy import Parts


class Hierarchical(EveryStep):
    """One worker's step, as `EveryStep`, by way of `ByHost`."""

    def __init__(self, parts: Parts, sync: Sync):
        """A collective. Raises UserError if hosts have unequal numbers of ranks, ValueError for
        rounds."""
        if sync.every_steps != 1:
            raise ValueError(
                f"sync_every_steps={sync.every_steps}: sync='hierarchical' exchanges at every step"
            )
        local, across = parts.world.by_host()
        self.reducer = ByHost(parts.reducer, local, across)
        super().__init__(dataclasses.replace(parts, reducer=self.reducer), sync)

    def settle(self) -> None:
        """What the reducer has found out of this rank's pieces is not state of all ranks."""
        self.reducer.clear()
