"""A rank as its agent has it: the process, the page with its pulse, and the door between them."""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.elastic.line import Line
from app.errors import STOPPED
from app.pulse import PAGE_BYTES, PAGE_VARIABLE, read
from launch.forks import Forked, Forks
from launch.line import DOOR_VARIABLE
from launch.process import Child, state

SEND_S = 1  # a rank that does not listen must not keep its agent
LAST_WORDS_S = 1.0  # for what a rank said before it ended


class Started:
    """One start of a rank. `door`: what it is told of its place (app/elastic/door.py);
    None: there is no recovery. `said` takes its messages, `ended` is called after the last one.
    `forks`: to fork it from."""

    def __init__(
        self,
        command: Sequence[str],
        directory: str,
        door: Mapping[str, Any] | None,
        said: Callable[[dict[str, Any]], None],
        ended: Callable[[], None],
        forks: Forks | None = None,
    ):
        self.asked = False  # SIGTERM has been sent: a second one would end it without a checkpoint
        self.told = False  # that it has ended
        self._is_deaf = False  # it has not listened for very long
        page = os.memfd_create("lockstep-pulse")
        os.ftruncate(page, PAGE_BYTES)
        self._page = mmap.mmap(page, PAGE_BYTES)
        environ, descriptors = {**os.environ, PAGE_VARIABLE: str(page)}, [page]
        self._door: Line | None = None
        theirs = None
        if door is not None:
            ours, theirs = socket.socketpair()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))
            environ[DOOR_VARIABLE] = json.dumps({**door, "fd": theirs.fileno()})
            descriptors.append(theirs.fileno())
            self._door = Line(ours)
        try:
            self.child: Child | Forked
            if forks is not None:
                self.child = Forked(forks, environ, descriptors)
            else:
                self.child = Child(command, directory, environ, descriptors)
        finally:
            os.close(page)
            if theirs:
                theirs.close()
        self._listener = threading.Thread(target=self._listen, args=(said,), daemon=True)
        self._listener.start()
        threading.Thread(target=self._wait, args=(ended,), daemon=True).start()

    @property
    def is_refused(self) -> bool:
        """Whether it could not be forked, and should be started in another way."""
        return isinstance(self.child, Forked) and self.child.is_refused

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message through the door."""
        if self._door and self.child.returncode is None and not self._is_deaf:
            self._is_deaf = not self._door.send(message)

    @property
    def status(self) -> int | None:
        """How it ended, as a shell gives it; None as long as it runs."""
        code = self.child.returncode
        if code is None:
            return None
        reading = read(self._page)
        if code == -signal.SIGTERM and self.asked and (not reading or reading.phase == "start"):
            return STOPPED  # it was asked to before it could listen
        return code if code >= 0 else 128 - code

    def report(self, asked: bool) -> dict[str, Any]:
        """What it does now: nothing, once it has ended. `asked`: its agent got a signal."""
        reading = None if self.told else read(self._page)
        said: dict[str, Any] = reading._asdict() if reading else {}
        asked = asked or bool(reading and reading.wants_stop)
        return {"reading": said, "state": state(self.child.pid), "asked": asked}

    def _listen(self, said: Callable[[dict[str, Any]], None]) -> None:
        for message in self._door.messages() if self._door else ():
            said(message)

    def _wait(self, ended: Callable[[], None]) -> None:
        self.child.wait()
        self._listener.join(LAST_WORDS_S)
        if self._door:
            self._door.close()
        ended()
