"""When numbers go bad: steps that were left out, and a loss that jumps. The same on every rank.

A step in which any rank's loss or gradients are not finite changes nothing, on any rank; see
app/distributed/signals.py. Here is counted how often that happens, and watched how the loss goes.
"""

import statistics
from collections import deque
from collections.abc import Sequence

import numpy as np

from app.distributed.world import World
from app.errors import UserError
from app.monitor.progress import Show

# The loss of the training steps since the last report against the median of such stretches.
SPIKE_FACTOR, STRETCHES, FEWEST_STRETCHES = 3.0, 20, 5
# A loss near 0 is often several times another one near 0.
SPIKE_LEAST = 0.5
MOST_RETURNS = 3  # to the same step


class Health:
    """Looks at every step of a run. `first_bad` gives the name of what was not finite here."""

    def __init__(self, world: World, shows: Sequence[Show], most_in_a_row: int):
        self._world = world
        self._shows = shows
        self._most = most_in_a_row
        self._in_a_row = 0
        self._returns: dict[int, int] = {}
        self._losses: deque[float] = deque(maxlen=STRETCHES)
        self.forget()

    def forget(self) -> None:
        """An epoch begins, or training has gone back: the running mean starts anew."""
        self._summed, self._examples = 0.0, 0

    def begin_anew(self) -> None:
        """The ranks are others: those that have come know nothing of what was, and what was counted
        may differ between those that were there when one was lost."""
        self._in_a_row = 0
        self._losses.clear()
        self.forget()

    def see_step(self, step: int, heard: np.ndarray, first_bad: str | None) -> bool:
        """Whether too many steps in a row were bad; a collective after the first of each row.

        `heard`: what ranks said in this step's exchange (`Signals.heard`); `first_bad`: of this
        rank.
        """
        _, gradients, losses = heard
        if not gradients and not losses:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row == 1 or self._in_a_row >= self._most:
            self._where = self._named(first_bad)
        if self._in_a_row == 1:
            self._tell(f"left out on all ranks: {self._where}", step)
        return self._in_a_row >= self._most

    def _named(self, first_bad: str | None) -> str:
        found = enumerate(self._world.gather(first_bad))
        bad = [(rank, name) for rank, name in found if name is not None]
        if not bad:
            return "a sum over ranks was not finite"
        rank, name = bad[0]
        what = "the loss" if name == "loss" else f"the gradient of '{name}'"
        others = f" (bad on {len(bad)} ranks)" if len(bad) > 1 else ""
        return f"{what} was not finite on rank {rank}{others}"

    def too_many(self) -> UserError:
        """What ends a run whose steps stay bad."""
        return UserError(
            f"{self._in_a_row} steps in a row had numbers that are not finite; {self._where}. "
            "Lower --learning-rate, give --clip-norm or --on-loss-spike go_back, or look at the "
            "data; the newest checkpoint is from before",
            shared=True,
        )

    def see_loss(self, step: int, mean: float, examples: int) -> bool:
        """Whether the loss has jumped. `mean`: of all ranks' `examples` of the epoch so far."""
        summed, before, new = mean * examples, self._summed, examples - self._examples
        self._summed, self._examples = summed, examples
        if new <= 0:
            return False
        loss = (summed - before) / new
        usual = statistics.median(self._losses) if self._losses else 0.0
        jumps = len(self._losses) >= FEWEST_STRETCHES and not (
            loss <= max(SPIKE_FACTOR * usual, usual + SPIKE_LEAST)
        )
        if jumps:
            self._tell(f"the loss has jumped from {usual:.4g} to {loss:.4g}, by step {step}", step)
        else:
            self._losses.append(loss)
        return jumps

    def goes_back(self, from_step: int, to_step: int, rate: float) -> None:
        """Training goes on from an earlier step at another share of its learning rate.

        Raises UserError if it has been there too often.
        """
        self._returns[to_step] = self._returns.get(to_step, 0) + 1
        if self._returns[to_step] > MOST_RETURNS:
            raise UserError(
                f"training has gone back to step {to_step} {MOST_RETURNS} times and failed again "
                "each time: lower --learning-rate or look at the data",
                shared=True,
            )
        self._in_a_row = 0
        self.forget()
        text = f"going back from step {from_step} to {to_step}, on at {rate:g} of the learning rate"
        self._tell(text, from_step)

    def _tell(self, text: str, step: int) -> None:
        for show in self._shows:
            show.skipped(step, text)
