"""One rank: `python -m app` in the launcher's directory. It ends when the launcher does.

Arguments and directory come in environment variables, since horovodrun would put them on a shell's
command line, and mpirun ends a command at the word ':'. See launch/commands.py.
"""

import json
import os
import select
import signal
import sys
import threading
import time

GRACE_S = 10.0  # mpirun waits as long between SIGTERM and SIGKILL


def end_with_launcher() -> None:
    """End this process when nobody is left to read its output.

    When an ssh connection ends, a rank that horovodrun started over it gets no signal.
    """
    output = select.poll()
    output.register(sys.__stdout__.fileno(), 0)  # type: ignore[union-attr]  # 0: errors only
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

    sys.argv[1:] = arguments  # for the log of the rank
    return app(arguments)


if __name__ == "__main__":
    sys.exit(main())
