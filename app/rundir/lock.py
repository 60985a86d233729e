"""One run at a time in a directory: a lock held by its process. Knows files, not workers.

The kernel's lock (`flock`) dies with the process, and over NFS with its host. Some network file
systems lock within a host only, so the holder also writes a growing number into the file: a process
that finds the file of another host watches whether the number still grows. No clocks are compared.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.pulse import PULSE
from app.rundir.files import RunFiles
from app.rundir.patience import PATIENCE_S, patiently

LOG = logging.getLogger(__name__)
BEAT_S = 5.0
GONE_AFTER_BEATS = 3
# The server's lease of a lock over NFS, which outlives a host that is lost without a word.
DEAD_S = 100.0
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class RunLock:
    """The right to write into a run directory; `acquire`, and `release` at the end."""

    def __init__(self, directory: Path):
        self.path = RunFiles(directory).lock
        self._made: Path | None = None  # the topmost directory that did not exist
        self._file: int | None = None
        self._stop = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="run lock", daemon=True)

    def acquire(self, from_the_dead: bool = False) -> None:
        """Take the directory, which is created if it does not exist.

        `from_the_dead`: whoever held it is known to be gone, so a lock that is still there will go
        too. Then nobody watches who could make room on a full disk and start again: it is waited
        for.

        Raises UserError if another process holds it, naming host and process, or if the directory
        cannot be written.
        """
        patience_s = PATIENCE_S if from_the_dead else 0.0
        try:
            patiently(lambda: self._take(from_the_dead), self.path.parent, patience_s)
        except UserError:
            self.release()  # what was made here
            raise
        self._beats.start()

    def _take(self, from_the_dead: bool) -> None:
        if self._file is None:
            missing = [one for one in (self.path.parent, *self.path.parent.parents)
                       if not one.exists()]  # fmt: skip
            self._made = missing[-1] if missing else self._made
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open(DEAD_S if from_the_dead else 0.0)
        holder = _read(self._file)
        if holder and holder.get("host") != socket.gethostname() and not from_the_dead:
            self._wait_for_life(holder)
        self._write(0)

    def release(self) -> None:
        """Give the directory back; an empty one that `acquire` made is removed."""
        if self._file is None:
            return
        self._stop.set()
        if self._beats.is_alive():
            self._beats.join()
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._file)
        self._file = None
        if self._made is not None:
            for one in (self.path.parent, *self.path.parent.parents):
                with contextlib.suppress(OSError):  # not empty: it holds a run
                    one.rmdir()
                if one == self._made:
                    break

    def _open(self, patience_s: float) -> int:
        """The locked file. If its last holder removes it while we open it, try once more; if it is
        locked, for so long."""
        until = time.monotonic() + patience_s
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read(file)
                os.close(file)
                if time.monotonic() < until:
                    PULSE.beat()
                    time.sleep(BEAT_S / 50)
                    continue
                raise self._taken(holder) from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    os.close(file)
                    raise
                LOG.warning(
                    "%s: this file system has no locks (%s): make sure yourself that no second "
                    "run writes there", self.path.parent, error.strerror,
                )  # fmt: skip
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self.path).st_ino == os.fstat(file).st_ino:
                    return file
            os.close(file)

    def _wait_for_life(self, holder: dict[str, Any]) -> None:
        """Raise UserError if the holder, on another host, shows that it is alive."""
        assert self._file is not None
        until = time.monotonic() + GONE_AFTER_BEATS * BEAT_S
        while time.monotonic() < until:
            time.sleep(BEAT_S / 5)
            now = _read(self._file)
            if now and now != holder:
                os.close(self._file)
                self._file = None
                raise self._taken(now)
        LOG.warning(
            "%s was held by process %s on host %s, which shows no sign of life: taking it over",
            self.path.parent, holder.get("pid"), holder.get("host"),
        )  # fmt: skip

    def _taken(self, holder: dict[str, Any]) -> UserError:
        who = "another process"
        if holder:
            who = f"process {holder.get('pid')} on host {holder.get('host')}"
        return UserError(
            f"{self.path.parent} is in use: {who} is training there. Wait for it to end, stop it, "
            "or give another --run-dir"
        )

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(BEAT_S):
            beat += 1
            with contextlib.suppress(OSError):  # the checkpoints report a full disk
                self._write(beat)

    def _write(self, beat: int) -> None:
        content = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "beat": beat})
        assert self._file is not None
        # One write of a fixed length: a reader never sees a part.
        os.pwrite(self._file, content.ljust(512).encode(), 0)


def _read(file: int) -> dict[str, Any]:
    """What the holder wrote; empty if nothing, or not yet."""
    try:
        found = json.loads(os.pread(file, 512, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
