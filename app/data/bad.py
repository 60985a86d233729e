"""Bad examples: what a file or row holds that cannot be learnt from, and what is done about it."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Literal

from app.errors import UserError

Policy = Literal["error", "skip"]
# With more than this share of bad examples, something else is wrong: the run is refused.
MOST_SKIPPED = 0.05


@dataclasses.dataclass(frozen=True)
class Bad:
    """One bad example: `where` names the file and the row, `reason` says what is wrong and what
    to do about it."""

    where: str
    reason: str


class BadExamples:
    """Collects bad examples, in the order of the dataset; under "error" the first ends the run."""

    def __init__(self, policy: Policy = "error"):
        self.policy = policy
        self.found: list[Bad] = []

    def add(self, where: str, reason: str) -> None:
        """Note one; raises UserError with it if the policy is "error"."""
        if self.policy == "error":
            raise UserError(f"{where}: {reason}. Mend or remove it, or pass over: --on-bad skip")
        self.found.append(Bad(where, reason))

    @contextlib.contextmanager
    def shown_before_errors(self) -> Iterator[None]:
        """A block whose UserErrors may follow from what was left out: they begin with that."""
        try:
            yield
        except UserError as error:
            message = str(error)
            # An error about the examples themselves names the first already.
            if self.found and f"{self.found[0].where}: {self.found[0].reason}" not in message:
                error.args = (f"{self._summary()} {message}", *error.args[1:])
            raise

    def _summary(self) -> str:
        first = self.found[0]
        more = f", and {len(self.found) - 1:,} more" if len(self.found) > 1 else ""
        return f"Left out as bad: {first.where}: {first.reason}{more}. Then:"

    def check(self, examples: int) -> None:
        """Raise UserError if more than `MOST_SKIPPED` of all `examples` (the bad ones included)
        are bad."""
        if len(self.found) > MOST_SKIPPED * examples:
            first = self.found[0]
            raise UserError(
                f"{len(self.found)} of {examples} examples are bad, more than the "
                f"{MOST_SKIPPED:.0%} that --on-bad skip passes over; the first: {first.where}: "
                f"{first.reason}"
            )
