"""Parameter servers over ssh on three hosts: a slow worker, and one that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.conftest import PORT
from tests.integration.serving import Room

pytestmark = pytest.mark.timeout(800)
THREE = ["-H", "h1:1,h2:1,h3:1"]
DIGITS = ["train", "--dataset", "digits", "--width", "4", "--per-rank-batch-size", "64", "--json"]
EPOCHS, BATCHES, SLOW_MS, PORT_OF_TASKS = 30, 21, 60, 23400


def reaches(hosts, at, address, port):
    probe = f"import socket; socket.create_connection(('{address}', {port}), 1)"
    command = hosts.network.command(at, sys.executable, "-c", probe)
    return subprocess.run(command, capture_output=True).returncode == 0


def test_a_slow_worker_gets_fewer_batches_and_a_killed_one_comes_back(hosts, tmp_path):
    room = Room(tmp_path / "room")
    room.slow(SLOW_MS)
    room.slow(5 * SLOW_MS, worker=1)
    command = ["--ssh-port", str(PORT), "--ssh-identity", str(hosts.key), *THREE, *DIGITS]
    command += ["--epochs", str(EPOCHS), "--run-dir", str(tmp_path / "run")]
    with ThreadPoolExecutor(1) as pool:
        launched = pool.submit(
            hosts.script, "parameter_servers", *command, timeout_s=300, at="h1", **room.environ
        )

        def waits_for(condition):
            while not condition():
                assert not launched.done(), launched.result().all
                time.sleep(0.1)

        waits_for(lambda: list((tmp_path / "run").glob("checkpoints/step-*")))
        # Only at the address of the interface, though TensorFlow listens on all of them.
        server = PORT_OF_TASKS + 4
        assert reaches(hosts, "h2", hosts.network.address("h1"), server)
        assert not reaches(hosts, "h1", "127.0.0.1", server)
        before = room.pid(2)
        os.kill(before, signal.SIGKILL)
        waits_for(lambda: room.pid(2) != before)
        done = launched.result()
    assert done.code == 0, done.all
    assert "worker 2 on h3 was killed by SIGKILL" in done.err, done.all
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["step"] == EPOCHS * BATCHES
    fast, slow, _ = found["parameter_servers"]["batches"]
    assert 2.5 < fast / slow < 6
    assert hosts.left_behind() == []
