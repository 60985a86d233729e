"""When the commit points of a run come."""

from app.config import Config
from app.epochs import Epochs
from app.state import TrainState


class CommitTimes:
    """Where in an epoch commit points come, and where ranks are compared between them.

    A commit point comes after every `commit_every_steps` optimizer steps, and at the end of each
    epoch; where that is a round of federated averaging, at its end only. Steps are counted from the
    start of the run, or where models are averaged in rounds from that of the epoch, as these are.
    """

    def __init__(self, config: Config, epochs: Epochs, state: TrainState):
        self._epochs = epochs
        self._state = state
        self._round = config.distribution.sync_every_steps  # steps; None: there are no rounds
        self._guard = config.distribution.guard_every_steps
        self._every = self._steps_of_epoch if epochs.are_rounds else config.commit_steps

    @property
    def _steps_of_epoch(self) -> int:
        return self._epochs.steps_of(self._epochs.examples)

    @property
    def steps_ahead(self) -> int:
        """Steps to the next commit point inside an epoch, 1 or more; right at one, to the one
        after it."""
        return self._steps_to(self._every)

    def _steps_to(self, every: int) -> int:
        in_rounds = self._round or self._epochs.are_rounds
        seen = self._state.examples_seen
        done = self._epochs.steps_of(seen) if in_rounds else self._state.step
        return every - done % every

    @property
    def is_now(self) -> bool:
        """Whether a commit point comes after the step that was just done, not at an epoch's end."""
        is_inside = self._state.examples_seen != self._epochs.examples
        return is_inside and self.steps_ahead == self._every

    @property
    def compares_now(self) -> bool:
        """Whether ranks are compared after this step if no commit point is."""
        return self._state.optimizer.is_equal_after_steps and self._state.step % self._guard == 0

    def choices(self) -> list[tuple[int, int, bool]]:
        """Where a run may end without a commit point made for it: (steps between such places, steps
        to the next one, whether that is the end of the epoch)."""
        to_end = self._epochs.steps_of(self._epochs.examples - self._state.examples_seen)
        found = []
        for every in filter(None, (self._every, self._round)):
            ahead = min(self._steps_to(every), to_end)
            found.append((every, ahead, ahead == to_end))
        return found

    def come_every(self, steps: int) -> None:
        """From here on, until there are other ranks."""
        self._every = steps
