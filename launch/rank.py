"""One rank: `python -m app` in the launcher's directory, which ends when its launcher does.

Arguments and directory come in environment variables: horovodrun puts them into a shell's command
line, and mpirun ends a command at the word ':'. See launch/commands.py.
"""

import json
import os
import select
import signal
import sys
import threading
import time

GRACE_S = 10.0  # as mpirun gives between SIGTERM and SIGKILL


def end_with_launcher() -> None:
    """End this process when nobody is left to read its output.

    A rank that was started over ssh by horovodrun gets no signal when the connection ends.
    """
    output = select.poll()
    output.register(sys.__stdout__.fileno(), 0)  # type: ignore[union-attr]  # errors alone
    output.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Run the application; returns its exit code."""
    arguments = json.loads(os.environ["LOCKSTEP_ARGUMENTS"])
    directory = os.environ["LOCKSTEP_DIRECTORY"]
    threading.Thread(target=end_with_launcher, daemon=True).start()
    try:
        os.chdir(directory)
    except OSError as error:
        print(f"error: the working directory {directory}: {error.strerror}", file=sys.stderr)
        return 2
    from app.__main__ import main as app

    sys.argv[1:] = arguments  # what the log of the rank says it was started with
    return app(arguments)


if __name__ == "__main__":
    sys.exit(main())
