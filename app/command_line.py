"""The command line: python -m app train | data | doctor ...

A user's mistake ends with one message from one rank and exit code 2; a bug, or a failure of the
machine, with the traceback of the rank that met it and exit code 1.
"""

import argparse
import contextlib
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from app.config import Config
from app.distributed.launcher import Launched, read_launcher
from app.errors import UserError, suggest
from app.recipe import add_flags, load

USER_ERROR, FAILURE = 2, 1
# The launcher stops all ranks as soon as one has ended. The rank that speaks must be first.
WAIT_TO_BE_STOPPED_S = 10.0
OPTIONS = {"command", "run", "recipe", "resume", "export"}  # what is no key of a config


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are UserErrors, so that one rank reports them."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def run(arguments: list[str]) -> int:
    """Run a command; returns the exit code."""
    launched = read_launcher()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        options, overrides = parse(arguments)
        options.run(load(options.recipe, overrides), options)
    except UserError as error:
        return _stop(f"error: {error}", USER_ERROR, launched, speaks=not error.shared)
    except KeyboardInterrupt:
        return _stop("interrupted", 130, launched, speaks=False)
    except Exception as error:
        return _failed(error, launched)
    return 0


def _train(config: Config, options: argparse.Namespace) -> None:
    if options.resume and config.run.run_dir is None:
        raise UserError("--resume needs --run-dir, the directory of the run to go on with")
    _quiet_tensorflow()
    from app.train import train

    train(config, resume=options.resume)


def _data(config: Config, options: argparse.Namespace) -> None:
    if options.export and options.export[0] != "tfrecord":
        raise UserError(f"--export {options.export[0]}: the only format is tfrecord")
    if read_launcher().size > 1:
        raise UserError("data is for one process: start it without a launcher", shared=True)
    _quiet_tensorflow()
    from app.show_data import show_data

    show_data(config, Path(options.export[1]) if options.export else None)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """(options of the command, config keys given as flags)."""
    parser = Parser(prog="python -m app", description=__doc__.partition("\n\n")[2])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    flags = {"train": _add_train(commands), "data": _add_data(commands)}
    commands.add_parser("doctor", help="what is wrong with this machine, and what to do")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        valid = flags[options.command]
        raise UserError(f"unknown argument '{unknown[0]}': {suggest(unknown[0], valid)}")
    given = vars(options)
    overrides = {key: value for key, value in given.items() if key not in OPTIONS}
    return options, overrides


def _add_train(commands: Any) -> list[str]:
    """The command `train`; returns its flags."""
    train = commands.add_parser(
        "train",
        help="train, evaluate and keep a classifier",
        description="Train, evaluate and keep an image or text classifier, on all ranks of the "
        "launcher (horovodrun, mpirun, MPIJob) or in this process alone. Flags override the "
        "recipe, a recipe overrides the defaults in [brackets].",
        usage="python -m app train [--recipe FILE] [--run-dir DIR] [--resume] [--KEY VALUE ...]",
        allow_abbrev=False,
    )
    train.set_defaults(run=_train)
    train.add_argument("--recipe", type=Path, metavar="FILE", help="a TOML file of these keys")
    train.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in --run-dir; start there if it holds none",
    )
    add_flags(train)
    return [flag for action in train._actions for flag in action.option_strings]


def _add_data(commands: Any) -> list[str]:
    """The command `data`; returns its flags."""
    data = commands.add_parser(
        "data",
        help="show what a dataset holds and what is wrong with it",
        description="Print the splits of a dataset, its classes, sizes and lengths, sample rows, "
        "and every problem found; or write it as TFRecord files for fast streaming.",
        usage="python -m app data [SOURCE] [--recipe FILE] [--export tfrecord DIR] [--KEY VALUE]",
        allow_abbrev=False,
    )
    data.set_defaults(run=_data)
    data.add_argument(
        "dataset", nargs="?", default=argparse.SUPPRESS, metavar="SOURCE", help="as --dataset"
    )
    data.add_argument("--recipe", type=Path, metavar="FILE", help="a TOML file of these keys")
    data.add_argument(
        "--export",
        nargs=2,
        metavar=("tfrecord", "DIR"),
        help="write the splits to this new directory; images keep their bytes, unless --image-size "
        "is given",
    )
    add_flags(data, only="data")
    return [flag for action in data._actions for flag in action.option_strings]


def _quiet_tensorflow() -> None:
    """TensorFlow's start-up notes are not the user's; its errors still come through Python."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")


def _failed(error: Exception, launched: Launched) -> int:
    """A failure: its traceback, unless it only echoes another rank's."""
    from app.distributed.guard import ReplicasDiverged

    if isinstance(error, ReplicasDiverged):
        return _stop(f"error: {error}", FAILURE, launched, speaks=False)
    from tensorflow.errors import OpError

    if launched.size > 1 and isinstance(error, OpError) and "Horovod" in str(error):
        reason = str(error).strip().splitlines()[0]
        message = f"rank {launched.rank}: an exchange failed; has another rank ended? {reason}"
        return _stop(message, FAILURE, launched, speaks=False)
    who = f"rank {launched.rank} of {launched.size} failed:\n" if launched.size > 1 else ""
    return _stop(who + traceback.format_exc(), FAILURE, launched, speaks=True)


def _stop(message: str, code: int, launched: Launched, speaks: bool) -> int:
    """Print the message on one rank, then end this process so that the launcher ends the others.

    `speaks`: this rank has something of its own to say; otherwise rank 0 speaks for all, and the
    others only if no launcher has stopped them.
    """
    if not speaks and launched.rank != 0:
        time.sleep(WAIT_TO_BE_STOPPED_S)
    print(message, file=sys.stderr, flush=True)
    _tell_launch_script(code)
    if launched.size > 1:
        # Without Horovod's orderly shutdown, in which ranks wait for each other.
        sys.stdout.flush()
        os._exit(code)
    return code


def _tell_launch_script(code: int) -> None:
    """horovodrun over gloo ends with 1 whatever the ranks end with: see launch/local.sh."""
    path = os.environ.get("LOCKSTEP_EXIT_CODE_FILE")
    if path:
        with contextlib.suppress(OSError), open(path, "x", encoding="ascii") as file:
            file.write(f"{code}\n")

