"""The log that every rank keeps, RUN/logs/rank-000.log; and which warnings reach the screen.

All of it goes through Python's `logging`: the story of the run through `STORY`, into files only
(terminal.py and command_line.py print for themselves), and the warnings of Python and of libraries
through their own loggers. Knows no TensorFlow: it starts before TensorFlow does.
"""

from __future__ import annotations

import datetime
import faulthandler
import logging
import logging.handlers
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from app.rundir.files import RunFiles

STORY = logging.getLogger("lockstep")
STORY.setLevel(logging.INFO)
STORY.addHandler(logging.NullHandler())  # keeps it off the screen where no log is kept
CAPACITY = 10_000  # records before the directory is known; far more than ever occur


class _Once(logging.Filter):
    """Lets each warning through once: what is wrong in one step is wrong in all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        seen = (record.name, record.getMessage())
        is_new = seen not in self._seen
        self._seen.add(seen)
        return is_new


class _Screen(logging.Handler):
    """Prints warnings and errors to standard error, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {self.format(record)}", file=sys.stderr, flush=True)


class _Lines(logging.Formatter):
    """Puts the time, with its zone since hosts may differ, and the rank before each record."""

    def __init__(self, rank: int):
        super().__init__(f"%(asctime)s rank {rank} %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        moment = datetime.datetime.fromtimestamp(record.created).astimezone()
        return moment.isoformat(timespec="milliseconds")


class _File(logging.FileHandler):
    """Leaves out what a full disk does not take; the checkpoints report that."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


_buffer: logging.handlers.MemoryHandler | None = None
_file: logging.Handler | None = None


def start(rank: int, quiet: bool = False) -> None:
    """Collect what this process logs, and show the part that the user must see.

    Only rank 0 shows warnings, since all ranks give the same ones; every rank shows errors.
    """
    global _buffer
    stop()
    screen = _Screen(_level(rank, quiet))
    screen.addFilter(lambda record: record.name != STORY.name)
    screen.addFilter(_Once())
    _buffer = logging.handlers.MemoryHandler(CAPACITY, flushLevel=sys.maxsize)
    _buffer.addFilter(_Once())
    for handler in (screen, _buffer):
        logging.root.addHandler(handler)
    warnings.showwarning = _log_warning
    _show_frames_in(sys.__stderr__)


def _level(rank: int, quiet: bool) -> int:
    return logging.ERROR if rank or quiet else logging.WARNING


def become(directory: Path, rank: int, quiet: bool = False) -> None:
    """This process has another rank from now on, and so another log."""
    for handler in logging.root.handlers:
        if isinstance(handler, _Screen):
            handler.setLevel(_level(rank, quiet))
    if (
        _file is None
        or Path(getattr(_file, "baseFilename", "")) != RunFiles(directory).rank_log(rank).absolute()
    ):
        STORY.info("goes on as rank %d, in that rank's log", rank)
        keep(directory, rank)


def keep(directory: Path, rank: int) -> str | None:
    """Write the log to `directory`/logs from now on, beginning with what was collected.

    Returns why that is not possible, or None.
    """
    global _buffer, _file
    _close(_file)
    path = RunFiles(directory).rank_log(rank)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _File(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    file.setFormatter(_Lines(rank))
    file.addFilter(_Once())
    if _buffer is not None:
        _buffer.setTarget(file)
        _close(_buffer)
        _buffer = None
    logging.root.addHandler(file)
    _file = file
    _show_frames_in(file.stream)
    return None


def stop() -> None:
    """Close the log of this process, as if nothing had been started."""
    global _buffer, _file
    if _file is not None:
        _show_frames_in(sys.__stderr__)  # not in a file that is closed
    for handler in list(logging.root.handlers):
        if handler in (_buffer, _file) or isinstance(handler, _Screen):
            _close(handler)
    _buffer = _file = None


def _show_frames_in(stream: Any) -> None:
    """Where SIGUSR1 writes what every thread is doing; the launcher sends it to a stuck rank.

    Without Python's help, so it works in an endless loop and in a call that never returns.
    """
    if stream is not None:
        faulthandler.register(signal.SIGUSR1, file=stream, all_threads=True)


def _close(handler: logging.Handler | None) -> None:
    if handler is not None:
        logging.root.removeHandler(handler)
        handler.close()


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """As `logging.captureWarnings`, in one line."""
    text = f"{category.__name__}: {message} ({filename}:{lineno})"
    logging.getLogger("py.warnings").warning(text)
