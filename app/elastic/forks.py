"""A process that has imported all that training needs, and forks ranks: each start saves seconds.

The agent starts it as it would a rank, with FORKS_VARIABLE, and asks for children through a socket.
A child goes on as if it had been started by itself. Only on hosts without GPUs: CUDA does not
survive a fork. Nor does a thread, so nothing that starts one may run here. What libraries read from
the environment when they are imported is what it was at this process's start.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import select
import signal
import socket
from collections.abc import Sequence
from typing import Any

from app.elastic.door import DOOR_VARIABLE
from app.light_imports import hide_from_keras
from app.pulse import PAGE_VARIABLE, PULSE
from app.version import code_version

FORKS_VARIABLE = "LOCKSTEP_FORKS"  # the file descriptor of the socket, inherited
IMPORTS = ("app.train", "horovod.tensorflow", "sklearn", "matplotlib.figure")
MOST_BYTES = 1 << 20  # of a request: an environment
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SET_PDEATHSIG = 1  # Linux's prctl: send a signal when our parent ends


def serve() -> None:
    """If an agent wants to fork from this process, serve it, and return in the children only."""
    number = os.environ.pop(FORKS_VARIABLE, None)
    if number is None:
        return
    for one in SIGNALS:  # meant for ranks, by somebody who sends them to every process
        signal.signal(one, signal.SIG_IGN)
    control = socket.socket(fileno=int(number))
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    hide_from_keras()
    stand_in = logging.NullHandler()  # for our own: with none at all TensorFlow would add one
    logging.root.addHandler(stand_in)
    for name in IMPORTS:
        importlib.import_module(name)
    logging.root.removeHandler(stand_in)
    code = code_version()
    _send(control, {"threads": _threads()})
    poll = select.poll()
    children: dict[int, int] = {}  # by descriptor (pidfd), its number
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != control.fileno():
                poll.unregister(descriptor)
                _reap(control, children.pop(descriptor), descriptor)
                continue
            data, passed, _, _ = socket.recv_fds(control, MOST_BYTES, 2)
            if not data or code_version() != code:
                os._exit(0)  # the agent has ended; or this would be old code under a new name
            parent = os.getpid()
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            if (pid := os.fork()) == 0:
                for child in children:
                    os.close(child)
                _become(json.loads(data), passed, parent)
                _send(control, {"pid": os.getpid()})
                control.close()
                return
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for descriptor in passed:
                os.close(descriptor)
            child = os.pidfd_open(pid)
            children[child] = pid
            poll.register(child, select.POLLIN)


def _threads() -> int:
    """How many there are, once OpenBLAS has ended its own, as it does at each fork."""
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return len(os.listdir("/proc/self/task"))


def _reap(control: socket.socket, pid: int, descriptor: int) -> None:
    os.close(descriptor)
    _, status = os.waitpid(pid, 0)
    _send(control, {"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    try:
        control.send(json.dumps(message).encode())
    except OSError:
        os._exit(0)


def _become(asked: dict[str, Any], passed: Sequence[int], parent: int) -> None:
    """Be what the agent has asked for. `passed`: the page of the pulse, and the door."""
    os.setsid()
    ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended before we could say so
        os._exit(1)
    page, door = passed
    environ = dict(asked["environ"])
    environ[PAGE_VARIABLE] = str(page)
    environ[DOOR_VARIABLE] = json.dumps({**json.loads(environ[DOOR_VARIABLE]), "fd": door})
    os.environ.clear()
    os.environ.update(environ)
    PULSE.begin_anew()
    importlib.import_module("numpy").random.seed()  # Python's own is seeded anew by itself
    for one in SIGNALS:
        signal.signal(one, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
