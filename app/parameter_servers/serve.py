"""What the processes of workers and servers do: answer the coordinator until they are ended.

A server only holds variables, for which TensorFlow needs none of our code. A worker runs the steps
that the coordinator sends it; their graphs call `Worker.batch` and `Worker.done` here (step.py).
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from app.build import build_feed
from app.data.batches import Feed
from app.data.order import Share
from app.distributed.devices import choose_cores
from app.distributed.launcher import WORKER, Task
from app.distributed.world import World
from app.elastic.door import DOOR
from app.errors import UserError
from app.load import load_data
from app.monitor import logs
from app.parameter_servers.calls import offer
from app.parameter_servers.listening import address_of_host, check_free, listen_only_at
from app.pulse import PULSE
from app.recipe import load
from app.rundir import contents
from app.rundir.files import RunFiles
from app.stop import STOP, Stopped
from app.version import code_version

# What graphs call.
PREPARE, BATCH, DONE = "lockstep.prepare", "lockstep.batch", "lockstep.done"
IDLE = "idle"  # a phase: nothing to do until the coordinator deals something
LOOK_S = 0.05
# One waits in Python while a batch is made; with one alone a step never ends.
FEWEST_THREADS = 4
FINISH_S = 10.0  # for the batch in hand, when this worker is asked to leave
# How a mistake of the user's looks in the middle of TensorFlow's error.
MARKS = "<<lockstep: ", " :lockstep>>"


def serve(task: Task) -> NoReturn:
    """Be a worker or a server, until this process is ended; raises Stopped when it is asked to.

    Raises UserError for a port that is taken, or data that cannot be loaded.
    """
    logs.STORY.info("%s of a cluster with parameter servers, process %d", task.name, os.getpid())
    tf.config.set_visible_devices([], "GPU")
    worker = Worker(task) if task.role == WORKER else None
    with STOP.deferred():
        if worker and DOOR.run is not None:  # training goes on already: come with everything ready
            worker.open(DOOR.run)
        server = _start(task)
        PULSE.enter(IDLE, float("inf"))
        while not STOP.wanted:
            time.sleep(LOOK_S)
        # A server is needed until the coordinator has kept what it holds; then it is ended.
        STOP.reached()
        until = time.monotonic() + (FINISH_S if worker else float("inf"))
        while time.monotonic() < until and (worker is None or worker.is_busy):
            time.sleep(LOOK_S)
    del server
    raise Stopped(f"{task.name} has left, since it was asked to")


def _start(task: Task) -> tf.distribute.Server:
    """TensorFlow's server of this task, which answers from here on."""
    host, port = task.address
    address = address_of_host(host)
    check_free(task.name, port)
    cores = sorted(os.sched_getaffinity(0))
    if task.role == WORKER and DOOR.place:
        cores = choose_cores(cores, *DOOR.place)
        os.sched_setaffinity(0, cores)
    options = tf.compat.v1.ConfigProto(
        device_count={"GPU": 0},
        intra_op_parallelism_threads=len(cores),
        inter_op_parallelism_threads=max(FEWEST_THREADS, len(cores)),
    )
    server = tf.distribute.Server(
        tf.train.ClusterSpec(task.cluster), task.role, task.index, "grpc", options, start=False
    )
    listen_only_at(address, port)
    server.start()
    return server


class Worker:
    """The Python side of a worker: the data, and a watch for each step."""

    def __init__(self, task: Task):
        self._task = task
        self._feed: Feed | None = None
        self._run: Path | None = None  # whose data that is
        self._about = b""  # what the coordinator said of it
        self._opening = threading.Lock()
        self._input_s = self._began_s = 0.0
        self.is_busy = False
        for name, function in ((PREPARE, self.prepare), (BATCH, self.batch), (DONE, self.done)):
            offer(name, function)

    def open(self, run: Path) -> None:
        """Load the training data of the run in this directory, by its plan; once.

        Raises UserError if it is not the data of the plan, or the run cannot be read here.
        """
        with self._opening, PULSE.during("preparation"):
            if self._run == run:
                return
            self._run = self._feed = None
            logs.keep(run, self._task.number)
            files = RunFiles(run)
            if not files.config.is_file():
                raise UserError(
                    f"there is no {files.config} here: the run directory must be on a file system "
                    "that all hosts share"
                )
            config = load(files.config, {}).in_directory(run)
            data = load_data(config, World(), contents.saved_plan(run))
            self._feed = build_feed(config, [len(data.plan.class_names)], data.splits["train"])
            self._run = run

    def prepare(self, about: Any) -> bytes:
        """Be ready for the run that `about`, JSON, describes; returns why that is not possible, or
        nothing."""
        try:
            self._open(about)
        except UserError as error:
            return str(error).encode()
        return b""

    def _open(self, about: Any) -> None:
        told = json.loads(bytes(about))
        self._about = b""
        own = code_version()
        for name in sorted(own.keys() | told["code"].keys()):
            if own.get(name) != told["code"].get(name):
                raise UserError(
                    f"it differs from the coordinator in {name}: {own.get(name)!r} instead of "
                    f"{told['code'].get(name)!r}. Start all with the same code and package versions"
                )
        self.open(Path(told["run"]))
        self._about = bytes(about)

    def batch(self, about: Any, rows: Any, places: Any, epoch: Any) -> list[Any]:
        """The tensors of a batch, in the order of `tf.nest.flatten(Batch)`, without what is None.

        `rows`, `places`: of its examples in the dataset and in the epoch, int64 (n,).
        """
        self.is_busy = True
        began = time.perf_counter()
        try:
            PULSE.enter("input")
            if bytes(about) != self._about:  # started anew, or of another run
                self._open(about)
            assert self._feed is not None
            share = Share(rows, places, rows, True)
            made = self._feed.batch(share, int(epoch))._replace(total=None)
        except UserError as error:
            self.is_busy = False
            PULSE.enter(IDLE, float("inf"))
            raise RuntimeError(f"{self._task.name}: {error}".join(MARKS)) from None
        self._began_s, self._input_s = began, time.perf_counter() - began
        PULSE.enter("step" if PULSE.step else "first trace")
        return [one.numpy() for one in tf.nest.flatten(made) if one is not None]

    def done(self) -> np.ndarray:
        """The step is over: this worker's number, the seconds of its input and of all of it,
        float64 (3,)."""
        seconds = time.perf_counter() - self._began_s
        PULSE.step += 1
        PULSE.enter(IDLE, float("inf"))
        self.is_busy = False
        return np.array([self._task.index, self._input_s, seconds], np.float64)
