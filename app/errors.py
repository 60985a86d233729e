"""A user's mistake: one clear message, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Exit codes. STOPPED is EX_TEMPFAIL of sysexits.h, STUCK that of timeout(1).
FAILURE, USER_ERROR, STOPPED, STUCK, INTERRUPTED = 1, 2, 75, 124, 130


class UserError(Exception):
    """What was given, what was expected and how to fix it.

    `shared`: every rank raises this same error at the same point, so one rank prints it for all;
    otherwise the rank that raises it prints it.
    """

    def __init__(self, message: str, *, shared: bool = False):
        super().__init__(message)
        self.shared = shared


class ServerLost(RuntimeError):  # noqa: N818 (an event)
    """A process that held a part of the run's state is gone. The message is all there is to say."""


def suggest(given: str, valid: Iterable[str]) -> str:
    """`did you mean 'cifar10'? Valid: ...`, for the end of a message about an unknown name."""
    names = sorted(valid)
    near = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.5)
    question = f"did you mean '{near[0]}'? " if near else ""
    return f"{question}Valid: {', '.join(names)}"
