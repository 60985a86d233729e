"""What `connect()` refuses, and what it sets, before Horovod starts."""

import os
import socket

import pytest

from app.distributed.horovod_world import _limit_stalls, connect
from app.distributed.launcher import Launched
from app.errors import UserError


def test_gloo_on_a_host_that_cannot_find_itself_is_refused(monkeypatch) -> None:
    pytest.importorskip("horovod.tensorflow")

    def fail(*arguments):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostname", lambda: "lost")
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UserError, match="own name 'lost' cannot be resolved.*/etc/hosts"):
        connect(Launched("horovodrun", 0, 2))


SHUTDOWN, CHECK = "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", "HOROVOD_STALL_CHECK_TIME_SECONDS"


@pytest.mark.parametrize(
    ("given", "timeout_s", "found"),
    [
        ({}, 600.0, {SHUTDOWN: "600"}),
        ({}, 59.5, {SHUTDOWN: "60", CHECK: "30"}),  # Horovod warns first, and by itself after 60 s
        ({}, 0.5, {SHUTDOWN: "2", CHECK: "1"}),
        ({}, float("inf"), {}),
        ({SHUTDOWN: "0"}, 10.0, {SHUTDOWN: "0"}),
        ({SHUTDOWN: "900", CHECK: "5"}, 10.0, {SHUTDOWN: "900", CHECK: "5"}),
    ],
)
def test_horovod_is_told_how_long_to_wait_unless_the_user_has_said_so(
    monkeypatch, given, timeout_s, found
) -> None:
    monkeypatch.setattr(os, "environ", dict(given))
    _limit_stalls(timeout_s)
    assert os.environ == found
