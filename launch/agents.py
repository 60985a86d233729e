"""Starts the agents of ranks, hears them and shows what they print; a subclass decides.

An agent is known by a number: that of its rank, or of its place if ranks come and go.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import IO, Any

from app.elastic.line import Line
from launch.line import greeting
from launch.orphans import SET_PDEATHSIG, adopt_orphans
from launch.report import Report, split

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Agents:
    """The agents of one launch. Make it, give its `line` to the agents, and start these."""

    def __init__(self, hosts: Sequence[str], address: str):
        self.report = Report(hosts, sys.stderr.buffer)
        self._processes: dict[int | None, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._token = secrets.token_hex(16)
        self._server = socket.create_server((address, 0), backlog=len(hosts) + 8)
        self.line = f"{address}:{self._server.getsockname()[1]}:{self._token}"
        self._signals: list[int] = []
        adopt_orphans()
        for number in SIGNALS:
            signal.signal(number, self._signalled)

    def start(
        self,
        number: int | None,
        command: Sequence[str],
        environ: dict[str, str],
        given: bytes = b"",
    ) -> None:
        """Start an agent, or mpirun (None). `given`: for its standard input."""
        prctl = ctypes.CDLL(None).prctl
        process = subprocess.Popen(
            list(command),
            env=environ,
            cwd="/",
            stdin=subprocess.PIPE if given else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches it only through us
            preexec_fn=lambda: prctl(SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
        )
        self._processes[number] = process
        self._thread(self._read, number, process.stdout, False)
        self._thread(self._read, number, process.stderr, True)
        if given:
            self._thread(_give, process.stdin, given)

    # What a subclass makes of agents; called from other threads.

    def _expected(self) -> int:
        """How many agents may call."""
        raise NotImplementedError

    def _greet(self, number: int, line: Line) -> None:
        """An agent has called."""
        raise NotImplementedError

    def _heard(self, number: int, line: Line, message: dict[str, Any]) -> None:
        """An agent says something."""
        raise NotImplementedError

    def _broken(self, number: int, line: Line) -> None:
        """The line to an agent is broken."""
        raise NotImplementedError

    # What is the same for all.

    def _alive(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self._processes.values() if process.poll() is None]

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _listen(self) -> None:
        """Accept the calls of agents from now on."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            threading.Thread(target=self._hear, args=(connection,), daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        """Listen to one agent, until its line breaks."""
        line = Line(connection)
        number: int | None = None
        for message in line.messages():
            if number is None:
                number = greeting(message, self._token, self._expected())
                if number is None:
                    break
                self._greet(number, line)
            else:
                self._heard(number, line, message)
        if number is not None:
            self._broken(number, line)
        line.close()

    def _thread(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        self._readers.append(thread)

    def _read(self, number: int | None, stream: Iterable[bytes], is_error: bool) -> None:
        for line in stream:
            speaker, text = split(line) if number is None else (number, line)
            with self._lock:
                if is_error or speaker is None:
                    self.report.error(speaker, text)
                else:
                    self._output(speaker, text)

    def _output(self, number: int, text: bytes) -> None:
        try:
            self.report.output(number, text, sys.stdout.buffer)
        except BrokenPipeError:  # the reader of our output has seen enough: | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._signalled(signal.SIGPIPE, None)


def _give(stream: IO[bytes], given: bytes) -> None:
    try:
        stream.write(given)
        stream.close()
    except BrokenPipeError:
        pass  # it has ended; its exit code tells
