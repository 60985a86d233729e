"""How a launch script ends."""

import os
import sys
from collections.abc import Callable

from app.errors import INTERRUPTED, USER_ERROR, UserError
from launch import pod


def exit_code(run: Callable[[], int]) -> int:
    """Of the script: what `run` returns; what an error or Ctrl-C makes of it."""
    try:
        _check_directory()
        return run()
    except UserError as error:
        pod.leave(f"error: {error}")
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _check_directory() -> None:
    """Raise UserError if ranks cannot start where we are."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the working directory is gone ({error.strerror}): cd elsewhere") from None
