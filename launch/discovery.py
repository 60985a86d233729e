"""Which hosts may be used while an elastic run goes on: a hostfile that is read again, or a script
that prints them.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from app.doctor.hosts import Host, parse_hostfile, parse_hosts
from app.errors import UserError
from launch import gloo

LOOK_EVERY_S, SCRIPT_S = 3.0, 20.0


def ask_script(script: Path, slots_per_host: int) -> list[Host]:
    """The hosts that a script prints, one a line: `HOST` or `HOST:SLOTS`. Raises UserError."""
    try:
        done = subprocess.run(
            [str(script.absolute())],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SCRIPT_S,
        )
    except (OSError, UnicodeError, subprocess.TimeoutExpired) as error:
        raise UserError(f"--discovery {script} cannot be run: {error}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"--discovery {script} ended with exit code {done.returncode}: {last}")
    lines = done.stdout.split()
    if not lines:
        raise UserError(f"--discovery {script} printed no host")
    return parse_hosts(",".join(x if ":" in x else f"{x}:{slots_per_host}" for x in lines))


class Discovery:
    """Looks for hosts from time to time, in a thread, since a script may take long."""

    def __init__(self, ask: Callable[[], Sequence[Host]]):
        self._ask = ask
        self._found: dict[str, int] | None = None
        threading.Thread(target=self._look, daemon=True).start()

    def found(self) -> dict[str, int] | None:
        """Host name -> slots, if there is news; None while nothing new is known."""
        found, self._found = self._found, None
        return found

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            try:
                found = {host.name: host.slots for host in self._ask()}
            except UserError:
                continue  # it is being written, or fails for now: what was known holds
            for name in found:
                gloo.is_local(name)  # asks the name service, for which nobody else must wait
            self._found = found


def of_hostfile(path: Path) -> Discovery:
    """Read a hostfile again and again."""
    path = path.absolute()
    return Discovery(lambda: parse_hostfile(path))


def of_script(script: Path, slots_per_host: int) -> Discovery:
    """Ask a script again and again."""
    script = script.absolute()
    return Discovery(lambda: ask_script(script, slots_per_host))
