"""Bad examples: files and rows that cannot be learnt from, and what is done about them."""

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
        self.notes: list[str] = []
        self._uncounted = 0

    def add(self, where: str, reason: str, *, counted: bool = True) -> None:
        """Note one; raises UserError with it if the policy is "error".

        `counted`: whether `check` counts it; False where one entry is about many files whose
        names already show that they cannot be read.
        """
        if self.policy == "error":
            raise UserError(
                f"{where}: {reason}. Fix or remove it, or skip bad examples with --on-bad skip"
            )
        self.found.append(Bad(where, reason))
        self._uncounted += not counted

    def note(self, text: str) -> None:
        """Note what was skipped or merged, for people; under any policy."""
        self.notes.append(text)

    def left_out(self, most: int) -> list[str]:
        """What was left out or merged, for people: up to `most` lines, then how many more."""
        lines = [f"{one.where}: {one.reason}" for one in self.found] + self.notes
        more = [f"... and {len(lines) - most:,} more"] if len(lines) > most else []
        return lines[:most] + more

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
        number = len(self.found) - self._uncounted
        if number > MOST_SKIPPED * examples:
            first = self.found[0]
            raise UserError(
                f"{number} of {examples} examples are bad, more than the "
                f"{MOST_SKIPPED:.0%} that --on-bad skip allows; the first: {first.where}: "
                f"{first.reason}"
            )
