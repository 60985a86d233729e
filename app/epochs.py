"""How the examples of an epoch are cut into steps, and dealt to the ranks that there are."""

import logging
from collections.abc import Callable

from app.build import owners_of_run
from app.config import Config
from app.data.batches import Plan, Split
from app.data.local_epochs import LocalEpochs
from app.data.order import EpochPlan, Order
from app.distributed.world import World
from app.preflight import with_fitting_batch

LOG = logging.getLogger(__name__)
FEWEST_ROUNDS = 50  # from which on an outer momentum does not lose accuracy


class Epochs:
    """The epochs of a run, as long as the number of ranks stays what it is; made on every rank.

    An epoch takes every training example once, in global batches. Under `local_epochs` it is a
    round of federated averaging, which takes every example `local_epochs` times: ranks pass over
    their own shards, in batches of their own.

    `order`: (seed, number) -> the order of a pass over the examples.
    """

    def __init__(
        self, config: Config, world: World, train: Split, order: Callable[[int, int], Order]
    ):
        training = with_fitting_batch(config, len(train), world.size).training
        self._epochs = training.epochs
        self._wire = config.distribution
        self.passes = training.backward_passes_per_step
        self.batch_size = training.examples_per_step(world.size)  # of all ranks
        self._local_epochs = self._wire.local_epochs
        self._rows = training.examples_per_rank
        self._train, self._order, self._size = train, order, world.size
        self._owners = owners_of_run(config, world, train)
        self.examples = len(train) * (self._local_epochs or 1)
        if self._local_epochs:
            self._steps = self._round(0, 0).steps

    @property
    def are_rounds(self) -> bool:
        """Whether each epoch is a round of federated averaging."""
        return bool(self._local_epochs)

    def warn_of_few_rounds(self, steps: int) -> None:
        """Log a warning if a run of so many steps has too few rounds for its outer momentum."""
        momentum, every = self._wire.outer_momentum, self._wire.sync_every_steps
        rounds = steps // every if every else self._epochs
        if momentum and rounds < FEWEST_ROUNDS:
            LOG.warning(
                "outer_momentum = %g (DiLoCo) is experimental, and this run has %d rounds: below "
                "about %d it loses accuracy; use a smaller sync_every_steps or outer_momentum = 0",
                momentum,
                rounds,
                FEWEST_ROUNDS,
            )

    def steps_of(self, examples: int) -> int:
        """How many optimizer steps `examples` of one epoch take."""
        if self._local_epochs:
            return -(-examples * self._steps // self.examples)
        return -(-examples // self.batch_size)

    def seen_after_step(self, seen: int) -> int:
        """The examples of an epoch that are done a step after `seen` are."""
        if self._local_epochs:  # ranks do different numbers of them in a step: evenly, by and large
            return (self.steps_of(seen) + 1) * self.examples // self._steps
        return min(seen + self.batch_size, self.examples)

    def plan(self, seed: int, epoch: int, seen: int) -> Plan:
        """What ranks do in the rest of an epoch. A round is never begun in its middle."""
        if self._local_epochs:
            return self._round(seed, epoch)
        return EpochPlan(
            self._order(seed, epoch),
            self.batch_size,
            self._size,
            self.passes,
            seen,
            "round robin" if self._train.files_of is None else "neighbours",
            self._owners,
        )

    def _round(self, seed: int, epoch: int) -> LocalEpochs:
        assert self._local_epochs and self._owners is not None
        first = epoch * self._local_epochs
        orders = [self._order(seed, first + number) for number in range(self._local_epochs)]
        return LocalEpochs(orders, self._owners, self._rows, self._size)
