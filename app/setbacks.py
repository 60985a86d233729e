"""Going back when numbers go bad; on all ranks after the same step."""

from collections.abc import Callable

import numpy as np

from app.classifier import Classifier
from app.commit import Commits
from app.config import Config
from app.distributed.replicas import broadcast_state, sum_metrics
from app.distributed.world import World
from app.health import Health
from app.monitor.goodput import Goodput
from app.monitor.progress import Progress
from app.state import TrainState


class Setbacks:
    """Going back to the newest checkpoint, at half the learning rate, where steps stay bad or the
    loss jumps and the config wants that (`on_loss_spike`).

    Args:
        config, world, state, goodput: the loop's.
        health: looks at the steps.
        commits: whose keeper has the checkpoints.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        state: TrainState,
        health: Health,
        goodput: Goodput,
        commits: Commits,
    ):
        self._wanted = config.training.on_loss_spike == "go_back"
        self._world = world
        self._state = state
        self._classifier: Classifier = state.model
        self._health = health
        self._goodput = goodput
        self._commits = commits

    def steps_stay_bad(self, said: np.ndarray | None, first_bad: Callable[[], str | None]) -> bool:
        """Whether too many steps in a row were bad.

        said: in the exchange of the step before this one (`Signals.heard`); None if there was none.
        first_bad: names where this rank's numbers went bad in that step.
        """
        if said is None or said[0] < 0:  # inside a round
            return False
        where = first_bad() if said[1:].any() else None
        return self._health.see_step(self._state.step - 1, said, where)

    def loss_jumps(self, progress: Progress | None, commits: bool) -> bool:
        """Whether the loss has jumped; a collective.

        progress: what a report that is due here has found; commits: whether a commit point comes
        next. What that keeps must be from before, so the loss is looked at first.
        """
        if progress is not None:
            loss = progress.metrics["loss"]
        elif commits and self._wanted:
            objective = self._classifier.objective
            loss = objective.total_loss(sum_metrics(self._world, objective.loss_means))
        else:
            return False
        return self._health.see_loss(self._state.step, loss, self._state.examples_seen)

    def go_back(self) -> bool:
        """Go on from the newest checkpoint at half the learning rate, if the config wants it and
        there is one; a collective.

        Raises UserError if it has been tried too often.
        """
        if not self._wanted:
            return False
        state, step, halvings = self._state, self._state.step, self._state.halvings + 1
        state.optimizer.settle()  # what is pending belongs to what is given up
        if not self._world.from_chief(self._restore):
            return False
        if not self._world.is_chief:
            self._classifier.reset_metrics()  # the chief has the sums over all ranks
        state.move_to(self._world.broadcast(state.position))
        state.halvings = halvings
        broadcast_state(self._world, self._classifier, state.optimizer, state.seed, state.step)
        self._health.goes_back(step, state.step, state.rate)
        self._goodput.lost_since(state.step)
        return True

    def _restore(self) -> bool:
        keeper = self._commits.keeper
        assert keeper is not None
        keeper.wait()
        return keeper.restore_latest(self._state, self._world.size) is not None
