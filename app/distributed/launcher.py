"""What the launcher's environment variables say, before Horovod or TensorFlow is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

# (launcher, rank, size), first match wins. Under MPI a rank sees no HOROVOD_RANK.
LAUNCHERS = (
    ("horovodrun", "HOROVOD_RANK", "HOROVOD_SIZE"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPI (PMI)", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
# Where ranks over gloo meet, in Horovod's words.
MEETING = ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT")


class Launched(NamedTuple):
    """How this process was started: `size` ranks by `launcher` (None: by no launcher)."""

    launcher: str | None
    rank: int
    size: int


def read_launcher(environ: Mapping[str, str] = os.environ) -> Launched:
    """The launcher, this process's rank and the number of ranks that it started."""
    for launcher, rank, size in LAUNCHERS:
        if rank in environ and size in environ:
            return Launched(launcher, int(environ[rank]), int(environ[size]))
    return Launched(None, 0, 1)
