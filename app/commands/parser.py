"""What command lines are parsed with, here and in launch/: mistakes are UserErrors.

Also what several commands share: their options, and how they are started.
"""

from __future__ import annotations  # the doctor also reports a Python that is too old

import argparse
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from app.distributed.launcher import read_launcher
from app.errors import UserError
from app.monitor.options import only_json


class Parser(argparse.ArgumentParser):
    """argparse that raises UserError, so that one rank reports a mistake for all."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The `type` of an option that takes a whole number from `least` to `most`."""
    expected = f"a whole number, at least {least}"
    if most is not None:
        expected = f"a whole number from {least} to {most}"

    def read(given: str) -> int:
        if not given.isdecimal() or not least <= int(given) <= (most or int(given)):
            raise argparse.ArgumentTypeError(f"expected {expected}, got '{given}'")
        return int(given)

    return read


def probability(given: str) -> float:
    """The `type` of an option that takes a number from 0 to 1."""
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got '{given}'")
    return number


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """`--recipe`, of commands that take a whole config."""
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="a TOML file with these keys")


def add_run(parser: argparse.ArgumentParser) -> None:
    """RUN, of commands that use a trained run."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the directory of a run")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """`--checkpoint` and `--weights`, of commands that use a trained run's weights."""
    parser.add_argument(
        "--checkpoint",
        default="newest",
        metavar="NAME",
        help="newest, best (with --keep-best), or a name such as step-00000630 [newest]",
    )
    parser.add_argument(
        "--weights",
        choices=("ema", "last"),
        help="of a run with --ema-examples: the moving average of the weights, or those of the "
        "last step [ema]",
    )


def add_output(parser: argparse.ArgumentParser, metavar: str, text: str) -> None:
    """`--output`."""
    parser.add_argument("--output", type=Path, metavar=metavar, help=text)


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """`--json`, of commands that run inside `results`."""
    text = f"print one JSON object, {what}; everything else goes to standard error"
    parser.add_argument("--json", action="store_true", help=text)


def results(
    options: argparse.Namespace,
) -> contextlib.AbstractContextManager[list[Mapping[str, Any]]]:
    """The block of a command with `--json`, which appends its result to the list."""
    return only_json(lambda: read_launcher().rank) if options.json else contextlib.nullcontext([])


def refuse_launcher(command: str) -> None:
    """Raise UserError if this is one of several ranks; for commands of one process."""
    if read_launcher().size > 1:
        raise UserError(f"{command} runs in one process: start it without a launcher", shared=True)
