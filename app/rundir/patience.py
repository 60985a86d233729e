"""Patience with a disk that is full for the moment, where nobody is there to start again."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from app.errors import UserError
from app.pulse import PULSE

LOG = logging.getLogger(__name__)
PATIENCE_S = 100.0  # about as long as for a checkpoint; other ranks wait meanwhile
PAUSE_S = 1.0
Result = TypeVar("Result")


def patiently(write: Callable[[], Result], directory: Path, patience_s: float) -> Result:
    """What `write()` returns. Where the disk does not take it, it is tried again for `patience_s`.

    Raises UserError that names the run's directory.
    """
    until, tries = time.monotonic() + patience_s, 0
    while True:
        try:
            return write()
        except OSError as error:
            problem = f"cannot write the run directory {directory}: {error}"
            if time.monotonic() >= until:
                raise UserError(problem) from None
        tries += 1
        if tries == 1:
            LOG.warning("%s; it is tried again for %.0f s", problem, patience_s)
        PULSE.beat()
        time.sleep(PAUSE_S)
