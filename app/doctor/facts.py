"""The facts of a host: its Python, packages, interfaces, cores, disk and clock.

The doctor runs this file here, and sends its text to the Python of every other host. So it needs
only Python's standard library, and it also runs on Python 3.8, so that an old Python is reported.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

# Before the answer there may be what a login prints.
MARK = "LOCKSTEP-FACTS "
GET_ADDRESS = 0x8915  # Linux's SIOCGIFADDR
ANSWER_TIMEOUT_S = 5.0  # how long to wait for a name service or a network file system


def gather(packages: list[str], directory: str) -> dict[str, Any]:
    """The facts of this host, as JSON values. `time_s`, read last, is seconds since 1970."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "horovod_built_for": horovod_built_for(),
        "hostname": socket.gethostname(),
        "addresses": lookup(socket.gethostname()),
        "interfaces": interfaces(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        "gpus": gpu_devices("/dev"),
        "directory": bounded(os.path.isdir, directory),
        "disk_free_bytes": bounded(disk_free_bytes, directory),
        "time_s": time.time(),
    }


def gpu_devices(directory: str) -> int:
    """How many GPUs the NVIDIA driver has made devices for."""
    return len(glob.glob(f"{directory}/nvidia[0-9]*"))


def gpus_named(visible: str) -> int:
    """How many GPUs CUDA_VISIBLE_DEVICES names: CUDA stops reading at the first invalid name."""
    names = [name.strip() for name in visible.split(",")]
    wrong = [at for at, name in enumerate(names) if name in ("", "-1")]
    return min([len(names), *wrong])


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except Exception:  # of a damaged distribution
        return None


def horovod_built_for() -> str | None:
    """The TensorFlow version that the installed Horovod was compiled against, if it says so."""
    try:
        place = importlib.metadata.distribution("horovod").locate_file("horovod/metadata.json")
        with open(str(place), encoding="utf-8") as file:
            return str(json.load(file)["tensorflow"])
    except Exception:
        return None


def bounded(function: Callable[[str], Any], argument: str) -> Any:
    """What the function returns, or None if it takes too long or fails.

    It runs in a thread, because a look-up or a dead file system cannot be interrupted.
    """
    found: list[Any] = []

    def work() -> None:
        with contextlib.suppress(Exception):
            found.append(function(argument))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT_S)
    return found[0] if found else None


def lookup(name: str) -> list[str] | None:
    """The addresses of a host name; None if it has none or the name service does not answer."""
    entries = bounded(lambda host: socket.getaddrinfo(host, None), name) or []
    return sorted({str(entry[4][0]) for entry in entries}) or None


def interfaces() -> dict[str, str]:
    """Name -> IPv4 address, for the network interfaces that have one (Horovod uses only those)."""
    addresses = {}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe.fileno(), GET_ADDRESS, request)
                addresses[name] = socket.inet_ntoa(answer[20:24])
    return addresses


def disk_free_bytes(directory: str) -> int | None:
    """The free space for the directory, or for the nearest one above it that exists."""
    while directory and not os.path.isdir(directory) and os.path.dirname(directory) != directory:
        directory = os.path.dirname(directory)
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def answer(packages: list[str], directory: str) -> None:
    """Print the facts on one marked line; another host runs this file and then calls this."""
    print("\n" + MARK + json.dumps(gather(packages, directory)), flush=True)
