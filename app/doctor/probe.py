"""What the doctor's checks are made of: a Result, and ways to look that always return."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

OK: Literal["ok"] = "ok"
WARNING: Literal["warning"] = "warning"
PROBLEM: Literal["problem"] = "problem"
STOPPING_S = 8.0  # horovodrun gives its ranks 5 s to end
OUTPUT_LINES, OUTPUT_COLUMNS = 15, 300

_running: set[subprocess.Popen] = set()


class Result(NamedTuple):
    """One line of the report: what was checked, what was found, and what to do about it."""

    status: Literal["ok", "warning", "problem"]
    name: str
    found: str
    advice: str = ""


class Finished(NamedTuple):
    """How a command ended. `failure` says how it failed; None: exit code 0."""

    failure: str | None
    code: int | None
    out: str
    err: str

    @property
    def last_lines(self) -> str:
        """The end of its stderr, or else of its stdout, made safe for a terminal."""
        return tail(self.err) or tail(self.out)


class Pending:
    """A function that runs in a thread; nobody has to wait for it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self._result: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, args=(function, arguments), daemon=True)
        self._thread.start()

    def _work(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            self._result = function(*arguments)
        except Exception as error:
            self._error = error

    def result(self, timeout_s: float) -> Any:
        """What the function returned; raises what it raised, or TimeoutError."""
        self._thread.join(max(0.0, timeout_s))
        if self._thread.is_alive():
            raise TimeoutError(f"no answer within {timeout_s:.0f} s")
        if self._error:
            raise self._error
        return self._result


def run(
    command: Sequence[str],
    timeout_s: float,
    stdin: str = "",
    environ: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command, never through a shell, and end it with all its children after `timeout_s`.

    Raises nothing: a program that is missing, cannot be run or does not end is a `failure`.
    """
    try:
        process = subprocess.Popen(
            list(command),
            env=None if environ is None else dict(environ),
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError:
        return Finished(f"{command[0]} is not installed", None, "", "")
    except (OSError, ValueError) as error:
        return Finished(f"{command[0]} cannot be started: {error}", None, "", "")
    _running.add(process)
    try:
        out, err = process.communicate(stdin, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        out, err = _stop(process)
        return Finished(f"no end within {timeout_s:.0f} s", None, out, err)
    finally:
        _running.discard(process)
    return Finished(_failure(process.returncode), process.returncode, out, err)


def stop_all() -> None:
    """End the commands that are still running, if the doctor stops before they do."""
    for process in list(_running):
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGTERM)


def _stop(process: subprocess.Popen) -> tuple[str, str]:
    """End a command and its process group; returns what it had printed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(OSError):
            os.killpg(process.pid, number)
        # A child in another session may still hold the pipe open: do not wait for it.
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError, OSError):
            return process.communicate(timeout=STOPPING_S)
    return "", ""


def _failure(code: int) -> str | None:
    if code >= 0:
        return f"exit code {code}" if code else None
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def tail(text: str) -> str:
    """The last lines of a program's output, without terminal control codes."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\t", " ").replace("\r", "\n"))
    lines = ["".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines()]
    lines = [line.rstrip()[:OUTPUT_COLUMNS] for line in lines if line.strip()]
    return "\n".join(lines[-OUTPUT_LINES:])


def last_line(text: str) -> str:
    """The last line of a program's output that is not empty."""
    return tail(text).rpartition("\n")[2]


def attempt(name: str, look: Pending, timeout_s: float) -> list[Result]:
    """The results of a running check; if it fails or hangs, that is a problem too."""
    try:
        return look.result(timeout_s)
    except TimeoutError as error:
        found = str(error)
    except Exception as error:
        found = f"could not be checked: {type(error).__name__}: {error}"
    return [Result(PROBLEM, name, found, "check this by hand, or run the doctor again")]


def gib(size_bytes: float) -> str:
    """`1.5 GiB`."""
    return f"{size_bytes / 2**30:.1f} GiB"
