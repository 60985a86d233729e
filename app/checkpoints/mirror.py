"""Where commits that are not due on the disk are kept: in the memory of the chief's host, for ranks
that a supervisor starts again. Loads no TensorFlow.
"""

import hashlib
import os
import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 3  # times what is to be kept must be free: an older one goes only after the new one


def mirror_of(run_dir: Path) -> Path:
    """The directory for a run of this user."""
    name = hashlib.sha256(os.fsencode(run_dir.resolve())).hexdigest()[:16]
    return MEMORY / f"lockstep-{os.getuid()}-{name}"


def has_room(size_bytes: int) -> bool:
    """Whether a commit of this size may be kept."""
    try:
        return shutil.disk_usage(MEMORY).free >= ROOM * size_bytes
    except OSError:
        return False


def clear(run_dir: Path) -> None:
    """Keep nothing any more."""
    shutil.rmtree(mirror_of(run_dir), ignore_errors=True)
