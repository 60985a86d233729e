"""What the coordinator says of a cluster that is not there."""

import json
import socket

import pytest
import tensorflow as tf

from app.config import Config
from app.distributed.launcher import TF_CONFIG, read_task
from app.errors import ServerLost, UserError
from app.parameter_servers import coordinator
from launch.cluster import free_ports


def given(ports, role="chief"):
    chief, worker, server = (f"127.0.0.1:{port}" for port in ports)
    cluster = {"chief": [chief], "worker": [worker], "ps": [server]}
    return {TF_CONFIG: json.dumps({"cluster": cluster, "task": {"type": role, "index": 0}})}


def test_without_a_cluster_there_is_no_coordinator(monkeypatch):
    monkeypatch.delenv(TF_CONFIG, raising=False)
    assert coordinator.connect(Config()) is None


def test_a_server_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(coordinator, "ANSWER_S", 0.3)
    ports = free_ports(3, "127.0.0.1")
    with socket.create_server(("127.0.0.1", ports[1])), pytest.raises(UserError) as error:
        coordinator._wait_for_all(read_task(given(ports)))
    assert f"from server 0 at 127.0.0.1:{ports[2]}:" in str(error.value)


def test_the_coordinators_own_port_may_be_taken(monkeypatch):
    ports = free_ports(3, "127.0.0.1")
    monkeypatch.setenv(TF_CONFIG, given(ports)[TF_CONFIG])
    with (
        socket.create_server(("127.0.0.1", ports[0])),
        pytest.raises(UserError, match=f"^coordinator: port {ports[0]} of "),
    ):
        coordinator.connect(Config())


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (tf.errors.UnavailableError(None, None, "target /job:ps/replica:0/task:1"), True),
        (tf.errors.UnavailableError(None, None, "target /job:worker/replica:0/task:1"), False),
        (tf.errors.InvalidArgumentError(None, None, "node /job:ps/replica:0/task:1"), False),
        (RuntimeError("/job:ps"), False),
    ],
)
def test_a_lost_server_is_told_from_other_errors(error, is_lost):
    found = coordinator.lost_server(error, "here")
    assert isinstance(found, ServerLost) == is_lost
