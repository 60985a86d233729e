"""Run a command so that its end is clear: one message, one exit code.

A user's mistake ends with one message from one rank and exit code 2; a bug, or a failure of the
machine, with the traceback of the rank that met it and exit code 1.

A command is the module of its name in this folder. It has `add_options(parser)` and `run(options)`,
which may return an exit code. It imports what is heavy inside `run`, so that `--help` and mistakes
are answered at once; the doctor's imports must work on any Python, with no package installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from app.commands.parser import Parser
from app.distributed.launcher import PARAMETER_SERVERS, read_launcher
from app.elastic.door import DOOR
from app.elastic.forks import serve
from app.errors import (
    FAILURE,
    INTERRUPTED,
    STOPPED,
    USER_ERROR,
    ServerLost,
    UserError,
    suggest,
)
from app.light_imports import hide_from_keras
from app.monitor import logs
from app.stop import STOP, Stopped

COMMANDS = {
    "train": "train, evaluate and keep a classifier",
    "data": "show what a dataset holds and what is wrong with it",
    "evaluate": "score a run on a split or on another dataset",
    "calibrate": "find how sure a run's model should be",
    "predict": "classify images or texts, as JSON Lines",
    "export": "write a model that needs only TensorFlow",
    "compare": "put runs side by side: config, metrics, speed",
    "network": "measure what collectives take between workers",
    "advise": "predict and try which way to communicate pays",
    "doctor": "find out what is wrong with this machine, and what to do about it",
}
# The launcher stops all ranks as soon as one has ended. The rank that speaks must be first.
WAIT_TO_BE_STOPPED_S = 10.0

Start = Callable[[argparse.Namespace], "int | None"]


def run(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code."""
    serve()
    DOOR.open()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        command, options = _parsed(arguments)
        # A newcomer has no rank among the others yet, and so nothing to say on the screen.
        _prepare(1 if DOOR.is_outside else read_launcher().rank, getattr(options, "quiet", False))
        code = command(options) or 0
        if read_launcher().launcher == PARAMETER_SERVERS:
            _leave(code)  # TensorFlow would wait for threads that wait for its servers
        return code
    except UserError as error:
        return _stop(f"error: {error}", USER_ERROR, speaks=not error.shared)
    except BrokenPipeError:  # the reader of our output has seen enough: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Stopped as message:
        return _stopped(str(message))
    except KeyboardInterrupt:
        return _stop("interrupted", INTERRUPTED, speaks=False)
    except ServerLost as error:
        return _stop(f"error: {error}", FAILURE, speaks=True)
    except Exception as error:
        return _failed(error)


def parse(arguments: Sequence[str]) -> tuple[Start, argparse.Namespace]:
    """A command's `run`, and the options for it. Raises UserError."""
    name = next(iter(arguments), "")
    if name not in COMMANDS and name and not name.startswith("-"):
        raise UserError(f"unknown command '{name}': {suggest(name, COMMANDS)}")
    parser = Parser(
        prog="python -m app", description="Train and use image and text classifiers with Horovod."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {
        command: commands.add_parser(command, help=text, allow_abbrev=False)
        for command, text in COMMANDS.items()
    }
    if name not in COMMANDS:
        parser.parse_args(arguments)  # --help, or a mistake
    module = importlib.import_module(f"app.commands.{name}")
    module.add_options(parsers[name])
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        valid = [flag for action in parsers[name]._actions for flag in action.option_strings]
        raise UserError(f"unknown argument '{unknown[0]}': {suggest(unknown[0], valid)}")
    return module.run, options


def _parsed(arguments: Sequence[str]) -> tuple[Start, argparse.Namespace]:
    """`parse`, whose mistakes all ranks make, since they have the same arguments."""
    try:
        return parse(arguments)
    except UserError as error:
        error.shared = True
        raise


def _prepare(rank: int, quiet: bool) -> None:
    """Before TensorFlow is imported. Its notes are not for users; its errors reach us as
    exceptions."""
    logs.start(rank, quiet)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    hide_from_keras()


def _failed(error: Exception) -> int:
    """A failure: its traceback, unless it only echoes another rank's."""
    launched = read_launcher()
    # Errors of modules that were never loaded cannot have been raised.
    guard, tensorflow = map(sys.modules.get, ("app.distributed.guard", "tensorflow"))
    if guard and isinstance(error, guard.ReplicasDiverged):
        DOOR.say("fatal", str(error))
        return _stop(f"error: {error}", FAILURE, speaks=False)
    of_tensorflow = tensorflow and isinstance(error, tensorflow.errors.OpError)
    echoes = launched.size > 1 and of_tensorflow and "Horovod" in str(error)
    if STOP.signal and echoes:
        logs.STORY.info(traceback.format_exc())
        # The other rank has been asked to stop too, or has failed: then it speaks.
        return _stopped(f"stopped by {STOP.signal.name}", prints=False)
    if echoes:
        return _echoed(launched.rank, str(error).strip().splitlines()[0])
    who = f"rank {launched.rank} of {launched.size} failed:\n" if launched.size > 1 else ""
    return _stop(who + traceback.format_exc(), FAILURE, speaks=True)


def _echoed(rank: int, reason: str) -> int:
    """An exchange has failed: nearly always because another rank has ended. If that was asked to
    stop we are too, only later, and nothing has failed."""
    message = f"rank {rank}: an exchange failed; has another rank ended? {reason}"
    try:
        with STOP.listening():
            time.sleep(WAIT_TO_BE_STOPPED_S)  # let the launcher see the other rank's end first
            return _stop(message, FAILURE, speaks=False)
    except Stopped as asked:
        return _stopped(str(asked), prints=False)


def _stopped(message: str, prints: bool = True) -> int:
    """The end of a run that was asked to stop: all ranks are, and one of them says so."""
    launched = read_launcher()
    logs.STORY.info(message)
    if launched.rank == 0 and prints and not DOOR.is_outside:
        print(message, file=sys.stderr, flush=True)
    if launched.size > 1:
        _leave(STOPPED)
    return STOPPED


def _stop(message: str, code: int, speaks: bool) -> int:
    """Print the message on one rank, then end this process so that the launcher ends the others.

    `speaks`: only this rank knows the message; otherwise rank 0 speaks for all, and the others
    only if no launcher has stopped them. Every rank writes it to its log.
    """
    launched = read_launcher()
    logs.STORY.error(message)
    if not speaks and launched.rank != 0:
        time.sleep(WAIT_TO_BE_STOPPED_S)
    print(message, file=sys.stderr, flush=True)
    if launched.size > 1:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End without Horovod's orderly shutdown, in which ranks wait for each other."""
    sys.stdout.flush()
    for name, module in list(sys.modules.items()):
        if name.startswith("__autograph_generated_file"):  # TensorFlow's, in the temporary folder
            with contextlib.suppress(OSError):
                os.unlink(str(module.__file__))
    os._exit(code)
