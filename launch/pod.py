"""What a launcher says that is the pod of an MPIJob: why it ended, where Kubernetes looks for that,
and what becomes of a worker.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

MESSAGE_VARIABLE = "LOCKSTEP_TERMINATION_LOG"  # launch/mpijob.sh sets it: the file for last words
MESSAGE_BYTES = 4096  # of which the kubelet takes so many
WORKER = re.compile(r"([a-z0-9-]+-worker-\d+)\.[a-z0-9-]+\.[a-z0-9-]+\.svc")


def advice(host: str) -> str:
    """What a user can do about a worker of an MPIJob that is gone; empty for any other host."""
    pod = WORKER.fullmatch(host)
    if pod is None:
        return ""
    return f"if `kubectl get pod {pod[1]}` shows it as Failed, delete it: then it is made anew"


def last_words(reason: str, lines: Iterable[bytes]) -> bytes:
    """The reason, and as many of the last lines as there is room for."""
    head = reason.encode(errors="replace")[:MESSAGE_BYTES]
    head += b"\n" if head else b""
    kept: list[bytes] = []
    room = MESSAGE_BYTES - len(head)
    for line in reversed([line.rstrip(b"\r\n") + b"\n" for line in lines]):
        room -= len(line)
        if room < 0:
            break
        kept.insert(0, line)
    return head + b"".join(kept)


def leave(reason: str, lines: Iterable[bytes] = ()) -> None:
    """Write the reason and the last lines of what failed to where `kubectl describe pod` finds
    them, if we are in a pod."""
    path = os.environ.get(MESSAGE_VARIABLE)
    if path:
        # The kubelet has made the file; where it is missing, we are in no pod.
        with contextlib.suppress(OSError), Path(path).open("r+b") as file:
            file.write(last_words(reason, lines))
            file.truncate()
