"""What the user sees: the plan, one progress bar, a table at the end. Only the chief has one."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import rich.progress
from rich.console import Console
from rich.table import Column

from app.distributed.launcher import read_launcher
from app.evaluate import Scores
from app.progress import Progress, Show

LINE_EVERY_S = 2.0
BAR_WIDTH = 20


class Terminal(Show):
    """Prints to the terminal if there is one, in lines otherwise, and to the run's log.

    The output of a rank under a launcher is a pipe; launch/local.sh names the terminal that the
    user looks at in LOCKSTEP_TERMINAL, so that the bar can move.
    """

    def __init__(self, log: Path, epochs: int):
        self._screen: IO[str] = sys.stdout
        terminal = os.environ.get("LOCKSTEP_TERMINAL")
        if terminal and os.path.exists(terminal):
            self._screen = open(terminal, "w", encoding="utf-8")  # noqa: SIM115 (open for the run)
        self._file = log.open("a", encoding="utf-8")
        # Open MPI gives its ranks a terminal of its own; a bar there would fill the output.
        moves = (
            None if self._screen is not sys.stdout or read_launcher().launcher is None else False
        )
        self._console = Console(
            file=self._screen, highlight=False, soft_wrap=True, force_terminal=moves
        )
        self._log = Console(file=self._file, highlight=False, soft_wrap=True)
        self._epochs = epochs
        self._bar: rich.progress.Progress | None = None
        self._last_line = 0.0

    def table(self, title: str, rows: Mapping[str, Any]) -> None:
        """Names and values."""
        width = max(len(name) for name in rows)
        lines = [f"  {name:{width}}  {value}" for name, value in rows.items()]
        for console in (self._console, self._log):
            console.print(f"\n[bold]{title}[/bold]")
            console.print("\n".join(lines) + "\n", markup=False)  # one line each, to be copied
        self._flush()

    def began(self, step: int, total_steps: int) -> None:
        """Show the bar, if the screen can move it."""
        if self._console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.BarColumn(BAR_WIDTH // 2),
                rich.progress.TaskProgressColumn(),
                rich.progress.TimeRemainingColumn(compact=True),
                rich.progress.TextColumn(
                    "{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")
                ),
                console=self._console,
            )
            self._task = self._bar.add_task("first step ...", total=total_steps, completed=step)
            self._bar.start()

    def trained(self, progress: Progress) -> None:
        """Move the bar."""
        if self._bar:
            line = self._line(progress)
            self._bar.update(self._task, completed=progress.step, description=line)

    def epoch_ended(self, progress: Progress, validation: Scores | None) -> None:
        """One line for the log; on a screen without a bar, at most one every few seconds."""
        line = self._line(progress)
        if validation:
            line += f"  validation {validation.accuracy:.2%}"
        self._log.print(line, markup=False)
        now, last = time.monotonic(), progress.epoch == self._epochs
        if self._bar:
            self._bar.update(self._task, completed=progress.step, description=line)
        elif last or now - self._last_line >= LINE_EVERY_S:
            filled = round(BAR_WIDTH * progress.epoch / self._epochs)
            bar = "━" * filled + "╌" * (BAR_WIDTH - filled)
            self._console.print(f"{bar} {line}", markup=False)
            self._last_line = now
        self._flush()

    def ended(self) -> None:
        """Leave the bar as it is."""
        if self._bar:
            self._bar.stop()

    def _line(self, progress: Progress) -> str:
        number = f"{progress.epoch:>{len(str(self._epochs))}}/{self._epochs}"
        values = "  ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
        return f"epoch {number}  {values}  {progress.examples_per_second:,.0f} examples/s"

    def _flush(self) -> None:
        self._screen.flush()
        self._file.flush()
