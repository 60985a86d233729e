"""What the user sees: the plan, one progress bar, a table at the end. Only the chief shows it."""

import datetime
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

import rich.progress
from rich.console import Console
from rich.table import Column

from app.columns import columns
from app.distributed.launcher import read_launcher
from app.evaluation.results import Results
from app.monitor.logs import STORY
from app.monitor.progress import Place, Progress, Show

EPOCH_EVERY_S, STEP_EVERY_S = 2.0, 20.0  # at most one line of each in that time, without a bar
BAR_WIDTH = 20


class Terminal(Show):
    """Shows a bar on a terminal, and prints lines elsewhere; tables also go to the rank's log.

    Under a launcher a rank's output is a pipe; launch/local.sh names the user's terminal in
    LOCKSTEP_TERMINAL, so that the bar can move. `quiet`: only the log.
    """

    def __init__(self, epochs: int, quiet: bool = False):
        self._screen: IO[str] = sys.stdout
        terminal = os.environ.get("LOCKSTEP_TERMINAL")
        if terminal and os.path.exists(terminal):
            self._screen = open(terminal, "w", encoding="utf-8")  # noqa: SIM115 (open for the run)
        # Open MPI gives its ranks its own terminal; a moving bar there would flood the output.
        moves = (
            None if self._screen is not sys.stdout or read_launcher().launcher is None else False
        )
        self._console = Console(
            file=self._screen,
            highlight=False,
            emoji=False,
            soft_wrap=True,
            force_terminal=moves,
            quiet=quiet,
        )
        self._has_bar = self._console.is_terminal and not quiet
        self._epochs = epochs
        self._bar: rich.progress.Progress | None = None
        self._total_steps = 0
        self._first_report: tuple[int, float] | None = None  # its step, and when it came
        self._last_line = -math.inf
        self._averaged = ""

    def table(self, title: str, rows: Mapping[str, Any]) -> None:
        """Names and values."""
        lines = columns([(name, str(value)) for name, value in rows.items()])
        self._console.print(f"\n[bold]{title}[/bold]")
        self._console.print(lines + "\n", markup=False)  # one line each, so it can be copied
        self._screen.flush()
        STORY.info("%s\n%s", title, lines)

    def began(self, step: int, total_steps: int) -> None:
        """Show the bar, if the screen can show it moving."""
        self._total_steps, self._first_report = total_steps, None
        if self._has_bar:
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
        """Move the bar; without one, print a line now and then, since epochs may be long."""
        self._show(progress, self._line(progress), STEP_EVERY_S)

    def epoch_ended(self, progress: Progress, validation: Results | None) -> None:
        """Move the bar, or print a line."""
        line = self._line(progress)
        if validation:
            line += f"  validation {validation}{self._averaged}"
        self._show(progress, line, 0 if progress.epoch == self._epochs else EPOCH_EVERY_S)

    def averaged(self, split: str, place: Place, scores: Results) -> None:
        """Shown with the epoch that ends."""
        self._averaged = f", ema {scores.accuracy:.2%}"

    def ended(self, step: int, error: BaseException | None = None) -> None:
        """Leave the bar as it is."""
        if self._bar:
            self._bar.stop()

    def _show(self, progress: Progress, line: str, every_s: float) -> None:
        if self._first_report is None:
            self._first_report = (progress.step, time.monotonic())
        if self._bar:
            self._bar.update(self._task, completed=progress.step, description=line)
        elif time.monotonic() - self._last_line >= every_s:
            filled = round(BAR_WIDTH * progress.step / self._total_steps)
            bar = "━" * filled + "╌" * (BAR_WIDTH - filled)
            self._console.print(f"{bar} {line}{self._left(progress.step)}", markup=False)
            self._screen.flush()
            self._last_line = time.monotonic()

    def _left(self, step: int) -> str:
        """The time left at the mean speed since the first report; before it TensorFlow compiles."""
        first, when = self._first_report or (step, 0.0)
        if not first < step < self._total_steps:
            return ""
        left = (time.monotonic() - when) * (self._total_steps - step) / (step - first)
        return f"  {datetime.timedelta(seconds=round(left))} left"

    def _line(self, progress: Progress) -> str:
        number = f"{progress.epoch:>{len(str(self._epochs))}}/{self._epochs}"
        return f"epoch {number}  {progress.shown}  {progress.examples_per_second:,.0f} examples/s"
