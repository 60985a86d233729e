"""A command of commands.py, run so that its end is clear: one message, one exit code.

A user's mistake ends with one message from one rank and exit code 2; a bug, or a failure of the
machine, with the traceback of the rank that met it and exit code 1.
"""

import os
import sys
import time
import traceback

from app.commands.parser import parse
from app.distributed.launcher import Launched, read_launcher
from app.errors import UserError
from app.monitor.logs import STORY

USER_ERROR, FAILURE = 2, 1
# The launcher stops all ranks as soon as one has ended. The rank that speaks must be first.
WAIT_TO_BE_STOPPED_S = 10.0


def run(arguments: list[str]) -> int:
    """Run a command; returns the exit code."""
    launched = read_launcher()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        options, overrides = parse(arguments)
        return options.run(options, overrides) or 0
    except UserError as error:
        return _stop(f"error: {error}", USER_ERROR, launched, speaks=not error.shared)
    except BrokenPipeError:  # the reader of our output has seen enough: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _stop("interrupted", 130, launched, speaks=False)
    except Exception as error:
        return _failed(error, launched)


def _failed(error: Exception, launched: Launched) -> int:
    """A failure: its traceback, unless it only echoes another rank's."""
    from app.distributed.guard import ReplicasDiverged

    if isinstance(error, ReplicasDiverged):
        return _stop(f"error: {error}", FAILURE, launched, speaks=False)
    from tensorflow.errors import OpError

    if launched.size > 1 and isinstance(error, OpError) and "Horovod" in str(error):
        reason = str(error).strip().splitlines()[0]
        time.sleep(WAIT_TO_BE_STOPPED_S)  # the launcher shall see the other rank's end first
        message = f"rank {launched.rank}: an exchange failed; has another rank ended? {reason}"
        return _stop(message, FAILURE, launched, speaks=False)
    who = f"rank {launched.rank} of {launched.size} failed:\n" if launched.size > 1 else ""
    return _stop(who + traceback.format_exc(), FAILURE, launched, speaks=True)


def _stop(message: str, code: int, launched: Launched, speaks: bool) -> int:
    """Print the message on one rank, then end this process so that the launcher ends the others.

    `speaks`: this rank has something of its own to say; otherwise rank 0 speaks for all, and the
    others only if no launcher has stopped them. Each has it in its log.
    """
    STORY.error(message)
    if not speaks and launched.rank != 0:
        time.sleep(WAIT_TO_BE_STOPPED_S)
    print(message, file=sys.stderr, flush=True)
    if launched.size > 1:
        # Without Horovod's orderly shutdown, in which ranks wait for each other.
        sys.stdout.flush()
        os._exit(code)
    return code
