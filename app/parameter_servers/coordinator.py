"""The coordinator's place in the cluster: a world of one, whose variables are on the servers."""

import concurrent.futures
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from app.classifier import Classifier
from app.config import Config
from app.distributed.launcher import (
    COORDINATOR,
    SERVER,
    WORKER,
    Task,
    address_of,
    called,
    read_task,
)
from app.distributed.world import World
from app.errors import ServerLost, UserError
from app.monitor.logs import STORY
from app.parameter_servers.calls import call
from app.parameter_servers.listening import address_of_host, check_free, listen_only_at
from app.parameter_servers.serve import PREPARE
from app.pulse import PULSE
from app.state import Kind, state_variables
from app.version import code_version

LOG = logging.getLogger(__name__)
ANSWER_S = 90.0  # until all tasks of the cluster listen
LOOK_S = 0.2
OF_SERVER = "/job:ps"  # in TensorFlow's errors


class Coordinator(World):
    """The coordinator, which is one rank to everything else in the application.

    `workers`, `servers`: how many there are; `strategy`, `cluster`: TensorFlow's.
    """

    backend = "parameter servers"

    def __init__(self, task: Task, strategy: Any):
        self.task = task
        self.strategy = strategy
        self.cluster = tf.distribute.coordinator.ClusterCoordinator(strategy)
        self.workers, self.servers = len(task.cluster[WORKER]), len(task.cluster[SERVER])
        self._near: Classifier | None = None

    def place(self, make: Callable[[], Any]) -> Any:
        with self.strategy.scope():
            made = make()
        if isinstance(made, Classifier):
            self._check_servers(made)
            self._near = make()
        return made

    def near(self, classifier: Classifier) -> Classifier:
        if self._near is None:
            return classifier
        own = [e.variable for e in state_variables(self._near) if e.kind is not Kind.DERIVED]
        there = [e.variable for e in state_variables(classifier) if e.kind is not Kind.DERIVED]
        for variable, other in zip(own, there, strict=True):
            variable.assign(other.numpy())
        return self._near

    def _check_servers(self, model: keras.Model) -> None:
        if self.servers > len(model.variables):
            raise UserError(
                f"{self.servers} servers, but the model has {len(model.variables)} variables, each "
                f"of which is on one server: start at most {len(model.variables)}"
            )

    def prepare(self, run: str) -> str:
        """Have all workers load the data of the run in this directory, at once; what they must know
        of it, JSON.

        Raises UserError that names the first worker which cannot, or has other code.
        """
        about = json.dumps({"run": os.path.abspath(run), "code": code_version()})

        def ask(worker: int) -> str:
            with tf.device(f"/job:{WORKER}/replica:0/task:{worker}/device:CPU:0"):
                try:
                    return call(PREPARE, [about], [tf.string])[0].numpy().decode()
                except tf.errors.UnavailableError:
                    return ""  # it is gone; who comes in its place will be ready

        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            asked = [pool.submit(ask, worker) for worker in range(self.workers)]
            while concurrent.futures.wait(asked, timeout=1.0).not_done:
                PULSE.beat()
        for worker, answer in enumerate(asked):
            if reason := answer.result():
                where = self.task.cluster[WORKER][worker]
                raise UserError(f"{called(WORKER, worker)} at {where}: {reason}")
        return about

    @property
    def described(self) -> str:
        return f"{self.workers} worker(s), {self.servers} server(s), one coordinator"


def connect(config: Config) -> Coordinator | None:
    """The cluster that TF_CONFIG names, once all its tasks are there; None if there is none.

    Raises UserError for one that is not, a port that is taken, or a wrong TF_CONFIG.
    """
    task = read_task()
    if task is None:
        return None
    host, port = task.address
    address = address_of_host(host)
    PULSE.enter("preparation")
    check_free(task.name, port)
    if tf.config.get_visible_devices("GPU"):
        LOG.warning("parameter servers train on CPUs here: GPUs are left alone")
        tf.config.set_visible_devices([], "GPU")
    logging.getLogger("tensorflow").addFilter(_only_in_the_log)
    _wait_for_all(task)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(task.cluster), task_type=COORDINATOR, task_id=0, rpc_layer="grpc"
    )
    with _clear_of_lost_servers("while the cluster was joined"):
        strategy = tf.distribute.ParameterServerStrategy(resolver)
    listen_only_at(address, port)
    return Coordinator(task, strategy)


def _only_in_the_log(record: logging.LogRecord) -> bool:
    """TensorFlow calls each worker that is lost an error. Whoever started it says so, and what is
    wrong in earnest comes as an exception."""
    STORY.info("TensorFlow: %s", record.getMessage())
    return False


def _wait_for_all(task: Task) -> None:
    """Return when every worker and server listens. Raises UserError that names those that do
    not."""
    missing = {
        where: called(role, index)
        for role in (WORKER, SERVER)
        for index, where in enumerate(task.cluster[role])
    }
    until = time.monotonic() + ANSWER_S
    while missing := {where: name for where, name in missing.items() if not _listens(where)}:
        if time.monotonic() > until:
            names = ", ".join(f"{name} at {where}" for where, name in missing.items())
            raise UserError(
                f"no answer within {ANSWER_S:.0f} s from {names}: was it started, and can this "
                "host reach it there?"
            )
        PULSE.beat()
        time.sleep(LOOK_S)


def _listens(where: str) -> bool:
    try:
        socket.create_connection(address_of(where), timeout=1.0).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _clear_of_lost_servers(when: str) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        raise lost_server(error, when) or error from None


def lost_server(error: Exception, when: str) -> ServerLost | None:
    """What an error of TensorFlow means if a parameter server is gone; None if none is."""
    gone = isinstance(error, tf.errors.UnavailableError | tf.errors.AbortedError)
    if not gone or OF_SERVER not in str(error):
        return None
    return ServerLost(
        f"a parameter server was lost {when}, and the variables with it: the run goes on from its "
        "newest checkpoint, with --run-dir and --resume"
    )
