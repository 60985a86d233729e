"""What the log of each rank says about itself: where it runs, and how its own steps went."""

import logging
import os
import shlex
import socket
import sys
import time
from pathlib import Path

from app.distributed import devices
from app.distributed.world import World
from app.evaluation.results import Results
from app.monitor import logs
from app.monitor.logs import STORY
from app.monitor.progress import Place, Progress, Show
from app.monitor.timing import PARTS
from app.version import code_version

LOG = logging.getLogger(__name__)
SKIPS_SHOWN = 10  # on the screen; the log has them all


def keep_logs(directory: Path, world: World) -> None:
    """Keep the log of each rank in a run directory; a collective.

    A rank that cannot write there goes on; one warning counts them all.
    """
    reasons = world.gather(logs.keep(directory, world.rank))
    failed = [reason for reason in reasons if reason]
    if failed:
        LOG.warning("%d rank(s) cannot keep a log; the first: %s", len(failed), failed[0])


class RankLog(Show):
    """The one show that every rank has."""

    def __init__(self, world: World):
        self._world = world
        self._last_epoch = time.monotonic()
        self._skips = 0
        where = f"host {socket.gethostname()}, process {os.getpid()}, local rank {world.local_rank}"
        STORY.info("rank %d of %d over %s: %s", world.rank, world.size, world.backend, where)
        versions = ", ".join(f"{name} {value}" for name, value in code_version().items())
        python = sys.version.split()[0]
        STORY.info("%s; Python %s, %s", devices.describe(), python, versions)
        STORY.info("command: %s", shlex.join(["python", "-m", "app", *sys.argv[1:]]))

    def trained(self, progress: Progress) -> None:
        """The means over all ranks, and this rank's own time and memory."""
        line = f"step {progress.step}  {_values(progress)}"
        if progress.times is not None:
            for name in PARTS:
                milliseconds = 1e3 * getattr(progress.times, name)[self._world.rank]
                line += f"  {name} {milliseconds:.1f} ms"
        if progress.memory_bytes is not None:
            line += f"  memory {progress.memory_bytes[self._world.rank] / 1e6:,.0f} MB"
        STORY.info(line)

    def epoch_ended(self, progress: Progress, validation: Results | None) -> None:
        """The time that this rank took, validation included."""
        now = time.monotonic()
        line = f"epoch {progress.epoch} in {now - self._last_epoch:.2f} s  {_values(progress)}"
        if validation:
            line += f"  validation {validation}"
        STORY.info(line)
        self._last_epoch = now

    def averaged(self, split: str, place: Place, scores: Results) -> None:
        """In the log of every rank."""
        accuracy = f"{scores.accuracy:.2%}"
        STORY.info("step %d: %s with the weights' average %s", place.step, split, accuracy)

    def straggles(self, step: int, text: str) -> None:
        """In the log of every rank, and on the chief's screen as all warnings are."""
        LOG.warning("step %d: %s", step, text)

    def skipped(self, step: int, text: str) -> None:
        """As `straggles`, but only the first few on the screen."""
        self._skips += 1
        if self._skips <= SKIPS_SHOWN:
            more = "; later ones only in the log" if self._skips == SKIPS_SHOWN else ""
            LOG.warning("step %d: %s%s", step, text, more)
        else:
            STORY.warning("step %d: %s", step, text)

    def resized(self, step: int, text: str) -> None:
        """In the log of every rank; the supervisor says it on the screen."""
        STORY.info("step %d: %s", step, text)

    def stopping(self, step: int, text: str) -> None:
        """In the log of every rank; the end of the run says it on the screen."""
        STORY.info("step %d: %s", step, text)


def _values(progress: Progress) -> str:
    values = [f"{name} {value:.4f}" for name, value in progress.metrics.items()]
    return "  ".join([*values, f"{progress.examples_per_second:,.0f} examples/s"])
