"""The Python side of a worker, without TensorFlow's server around it."""

import json

import numpy as np
import pytest

from app.data.batches import Loaded
from app.distributed.launcher import Task
from app.distributed.world import World
from app.errors import UserError
from app.load import load_data
from app.monitor import logs
from app.parameter_servers.serve import IDLE, MARKS, Worker, serve
from app.pulse import PULSE
from app.recipe import load
from app.rundir.contents import keep_run
from app.rundir.files import RunFiles
from app.version import code_version

CLUSTER = {"chief": ["127.0.0.1:1"], "worker": ["127.0.0.1:2"], "ps": ["127.0.0.1:3"]}
TASK = Task(CLUSTER, "worker", 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(directory of a run that has begun, its training split)."""
    directory = tmp_path_factory.mktemp("run")
    config = load(None, {"dataset": "digits", "run_dir": str(directory)})
    data = load_data(config, World())
    keep_run(directory, config, data.plan)
    return directory, data.splits["train"]


@pytest.fixture
def worker():
    yield Worker(TASK)
    logs.stop()


def about(directory, **code):
    return json.dumps({"run": str(directory), "code": code_version() | code}).encode()


def test_a_batch_is_gathered_by_its_rows(worker, run):
    directory, train = run
    rows, places = np.array([5, 0, 77]), np.array([0, 1, 2])
    assert worker.prepare(about(directory)) == b""
    inputs, labels = worker.batch(about(directory), rows, places, np.int64(0))
    assert isinstance(train, Loaded)
    np.testing.assert_array_equal(inputs, train.everything.numpy()[rows])
    np.testing.assert_array_equal(labels, train.labels[rows])


def test_the_times_of_a_step_come_with_its_end(worker, run):
    worker.batch(about(run[0]), np.arange(3), np.arange(3), np.int64(0))
    assert worker.is_busy and PULSE.phase in ("step", "first trace")
    number, input_s, seconds = worker.done()
    assert number == 0 and 0 < input_s <= seconds
    assert not worker.is_busy and PULSE.phase == IDLE


def test_a_worker_that_was_started_anew_prepares_itself_with_its_first_batch(worker, run):
    assert len(worker.batch(about(run[0]), np.arange(2), np.arange(2), np.int64(0))) == 2


def test_other_code_is_named(worker, run):
    reason = worker.prepare(about(run[0], keras="1.0")).decode()
    assert reason.startswith("it differs from the coordinator in keras: ")
    with pytest.raises(RuntimeError) as error:
        worker.batch(about(run[0], keras="1.0"), np.arange(2), np.arange(2), np.int64(0))
    assert str(error.value).startswith(f"{MARKS[0]}worker 0: it differs")
    assert str(error.value).endswith(MARKS[1])


def test_a_run_that_is_not_there_is_named(worker, tmp_path):
    reason = worker.prepare(about(tmp_path)).decode()
    assert f"there is no {RunFiles(tmp_path).config} here" in reason
    assert "on a file system that all hosts share" in reason


def test_a_port_that_is_taken_is_refused(monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        cluster = CLUSTER | {"ps": [f"127.0.0.1:{port}"]}
        with pytest.raises(UserError, match=f"^server 0: port {port} of "):
            serve(Task(cluster, "ps", 0))
