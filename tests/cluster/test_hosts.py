"""launch/hosts.sh for real: over ssh, between hosts that are network namespaces of this machine."""

import json
import shutil

import pytest

DIGITS = ["train", "--recipe", "launch/recipes/digits.toml", "--epochs", "1"]
TRANSPORTS = ["gloo", "mpi"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_two_hosts_train_one_model(hosts, tmp_path, transport):
    _needs(transport)
    train = [*DIGITS, "--run-dir", str(tmp_path / "run")]
    done = hosts.launch("-H", "h1:1,h2:1", f"--{transport}", *train, timeout_s=120)
    assert done.code == 0, done.all
    assert "2 rank(s)" in done.out and done.out.count("test accuracy") == 1, done.all
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["world_size"] == 2


def _needs(transport):
    if transport == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed")
