"""Many tests in one cluster: this process is the coordinator, as TF_CONFIG says.

Started by tests/integration/test_parameter_servers.py, which also starts two workers and two
servers; otherwise nothing here is collected.
"""

import pytest

from app.distributed.launcher import read_task

if read_task() is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def coordinator():
    from app.config import Config
    from app.parameter_servers.coordinator import connect

    return connect(Config())


@pytest.fixture
def one_at_a_time(coordinator, monkeypatch):
    """Deal as if there were one worker: with no staleness, batch after batch."""
    monkeypatch.setattr(coordinator, "workers", 1)
